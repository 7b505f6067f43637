// SPDX-License-Identifier: Apache-2.0
#include "http_connection.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <string>

namespace inference {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

// Smaller bodies do not count towards the shared memory limit: small requests are answered while large ones
// fill it.
constexpr std::size_t kUncounted = 16 << 10;
// The body of a refused request is read up to this size to keep the connection open; beyond, the connection
// is closed.
constexpr std::uint64_t kReadAway = 64 << 10;
// After the last answer: closing at once would reset the connection while the client is still sending, and
// the client might never see the answer.
constexpr std::chrono::milliseconds kLinger{2'000};
constexpr std::size_t kLingerBytes = 16 << 20;
constexpr std::chrono::hours kNoTimeout{24 * 365};

/// Where the parser stores the body.
struct BoundedBody {
  struct value_type {
    std::string bytes;
    MemoryBudget::Lease lease;
    bool keep = true;
  };
  class reader {
   public:
    template <bool isRequest, class Fields>
    reader(http::header<isRequest, Fields>&, value_type& body) : body_(body) {}
    void init(const boost::optional<std::uint64_t>&, error_code& error) { error = {}; }
    template <class Buffers>
    std::size_t put(const Buffers& buffers, error_code& error) {
      error = {};
      const std::size_t size = boost::beast::buffer_bytes(buffers);
      if (!body_.keep) return size;
      const std::size_t total = body_.bytes.size() + size;
      if (total > body_.bytes.capacity() && total > kUncounted) {
        // No more than could ever be had: a body that fits must not be refused for room to grow.
        const auto most = static_cast<std::size_t>(body_.lease.most());
        const std::size_t capacity = std::max(total, std::min(2 * body_.bytes.capacity(), most));
        if (!body_.lease.resize(static_cast<std::int64_t>(capacity))) {
          error = make_error_code(boost::system::errc::not_enough_memory);
          return 0;
        }
        body_.bytes.reserve(capacity);
      }
      for (const auto part : boost::beast::buffers_range_ref(buffers)) {
        body_.bytes.append(static_cast<const char*>(part.data()), part.size());
      }
      return size;
    }
    void finish(error_code& error) { error = {}; }

   private:
    value_type& body_;
  };
};

using Parser = http::request_parser<BoundedBody>;

std::string_view view(boost::beast::string_view text) {
  return {text.data(), text.size()};
}

HttpHead head_of(const Parser& parser) {
  HttpHead head;
  const auto& message = parser.get();
  head.method = std::string(message.method_string());
  head.path = std::string(message.target().substr(0, message.target().find('?')));
  for (const auto& field : message) {
    head.headers.emplace_back(lower(view(field.name_string())), std::string(field.value()));
  }
  return head;
}

/// HTTP/1.0 has no interim answers (RFC 9110, section 10.1.1).
bool expects_continue(const Parser& parser) {
  return parser.get().version() >= 11 && lower(view(parser.get()[http::field::expect])) == "100-continue";
}

HttpAnswer invalid(const std::string& why) {
  return error_response(400, "the request is not valid HTTP: " + why);
}

/// The answer if the parser accepts the head but it must not be trusted: one that two programs may read as
/// one request and as two (RFC 9112, section 6.3), or that names no server.
std::optional<HttpAnswer> fault_of(const HttpHead& head, unsigned version) {
  if (std::ssize(head.headers) > HttpLimits::kMaxHeaders) {
    return error_response(
        431, "the request has more than " + std::to_string(HttpLimits::kMaxHeaders) + " headers");
  }
  if (head.path.empty() || head.path[0] != '/') return invalid("the path must begin with '/'");
  for (const char* name : {"host", "origin", "content-type", "content-encoding", "transfer-encoding"}) {
    const auto count = std::count_if(head.headers.begin(), head.headers.end(),
                                     [name](const auto& header) { return header.first == name; });
    if (count > 1) return invalid("the header '" + std::string(name) + "' stands more than once");
  }
  if (!head.header("host")) return invalid("there is no header 'host'");
  const auto encoding = head.header("transfer-encoding");
  if (encoding && (version < 11 || lower(*encoding) != "chunked")) {
    return invalid("Transfer-Encoding is '" + std::string(encoding->substr(0, 40)) +
                   "', expected 'chunked' in HTTP/1.1");
  }
  return std::nullopt;
}

}  // namespace

HttpConnection::HttpConnection(HttpCore& core, tcp::socket socket, bool overflow)
    : core_(core),
      socket_(std::move(socket)),
      buffer_(static_cast<std::size_t>(HttpLimits::kMaxHead)),
      answered_(core.io),
      overflow_(overflow) {}

void HttpConnection::enter(State state, Milliseconds timeout) {
  state_ = state;
  since_ = Clock::now();
  timed_out_ = false;
  deadline_ = std::min(since_ + timeout, state == State::idle ? last_idle_deadline_ : last_deadline_);
}

void HttpConnection::expire(Clock::time_point now) {
  if (now < deadline_) return;
  error_code ignored;
  if (state_ == State::reading) {  // the client gets a 408, in a drain a 503
    timed_out_ = true;
    socket_.cancel(ignored);
  } else if (state_ == State::working) {
    answer_ = error_response(503, "the server is stopping");
    answered_.cancel();
  } else {
    socket_.close(ignored);
  }
}

void HttpConnection::drain(Clock::time_point deadline, Clock::time_point idle_deadline) {
  last_deadline_ = deadline;
  last_idle_deadline_ = idle_deadline;
  deadline_ = std::min(deadline_, state_ == State::idle ? idle_deadline : deadline);
}

void HttpConnection::close() {
  error_code ignored;
  socket_.close(ignored);
}

// GCC 12 compiles `while (co_await ...)` to an illegal instruction, hence the variable.
asio::awaitable<void> HttpConnection::serve() {
  bool open = true;
  while (open) {
    open = co_await wait_for_request();
    if (open) open = co_await serve_request();
  }
  close();
}

asio::awaitable<bool> HttpConnection::wait_for_request() {
  enter(State::idle, core_.limits.idle_timeout);
  if (buffer_.size() > 0) co_return true;  // the client did not wait for the last answer
  buffer_.shrink_to_fit();                 // an idle connection keeps one or two kilobytes
  error_code error;
  co_await socket_.async_wait(tcp::socket::wait_read, asio::redirect_error(asio::use_awaitable, error));
  co_return !error;
}

asio::awaitable<bool> HttpConnection::serve_request() {
  enter(State::reading, core_.limits.header_timeout);
  Parser parser;
  parser.header_limit(static_cast<std::uint32_t>(HttpLimits::kMaxHead));
  parser.body_limit(static_cast<std::uint64_t>(core_.limits.max_body));
  error_code error;
  co_await http::async_read_header(socket_, buffer_, parser,
                                   asio::redirect_error(asio::use_awaitable, error));
  request_read_ = Clock::now();
  const unsigned version = parser.get().version();
  HttpRequest request;
  std::optional<HttpAnswer> answer;
  bool keep_alive = false;
  if (error) {
    answer = refusal(error, !parser.get().target().empty());
    if (!answer) co_return false;
    // If only the body is too large the head is complete: the metrics need its path.
    if (error == http::error::body_limit) request.head = head_of(parser);
  } else if (HttpHead head = head_of(parser); std::optional<HttpAnswer> fault = fault_of(head, version)) {
    answer = std::move(fault);
  } else {
    request.head = std::move(head);
    request.head.overflow = overflow_;
    keep_alive = parser.keep_alive() && !overflow_;
    answer = core_.app.at_head(request.head);
    const auto length = parser.content_length();
    if (answer && !parser.is_done() && (!length || *length > kReadAway || expects_continue(parser))) {
      keep_alive = false;  // the body stays unread
    } else if (!parser.is_done()) {
      parser.get().body().keep = !answer;
      error = co_await read_body(parser);
      request_read_ = Clock::now();
      if (error) {
        answer = refusal(error, true);
        keep_alive = false;
        if (!answer) co_return false;
      }
      request.body = std::move(parser.get().body().bytes);
      request.lease = std::move(parser.get().body().lease);
    }
  }
  const HttpHead head = request.head;
  if (!answer) {
    HttpAnswer computed = co_await computed_answer(std::move(request));
    answer = std::move(computed);
  }
  co_return co_await write_answer(head, std::move(*answer), keep_alive, version);
}

template <class Parser>
asio::awaitable<error_code> HttpConnection::read_body(Parser& parser) {
  enter(State::reading, core_.limits.body_timeout);
  parser.get().body().lease = MemoryBudget::Lease(core_.memory);
  error_code error;
  if (expects_continue(parser)) {
    static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
    co_await asio::async_write(socket_, asio::buffer(kContinue),
                               asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return error;
  }
  co_await http::async_read(socket_, buffer_, parser, asio::redirect_error(asio::use_awaitable, error));
  co_return error;
}

Reply HttpConnection::reply() {
  return Reply([self = shared_from_this()](HttpAnswer answer) {
    asio::post(self->core_.io, [self, held = std::move(answer)]() mutable {
      if (self->state_ != State::working) return;  // a drain has already answered
      self->answer_ = std::move(held);
      self->answered_.cancel();
    });
  });
}

asio::awaitable<HttpAnswer> HttpConnection::computed_answer(HttpRequest request) {
  enter(State::working, kNoTimeout);
  answer_.reset();
  answered_.expires_at(asio::steady_timer::time_point::max());
  asio::post(core_.handlers, [&app = core_.app, held = std::move(request), reply = reply()]() mutable {
    app.handle(std::move(held), reply);
  });
  error_code cancelled;
  while (!answer_) co_await answered_.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
  co_return std::move(*answer_);
}

asio::awaitable<bool> HttpConnection::write_answer(const HttpHead& head, HttpAnswer answer, bool keep_alive,
                                                   unsigned version) {
  enter(State::writing, core_.limits.write_timeout);
  core_.app.before_answer(head, answer, std::chrono::duration<double>(since_ - request_read_).count());
  keep_alive = keep_alive && !answer.close && !core_.draining;
  http::response<http::string_body> response;
  response.result(static_cast<unsigned>(answer.status));
  response.set(http::field::content_type, answer.content_type);
  for (const auto& [name, value] : answer.headers) response.set(name, value);
  if (!keep_alive) response.set(http::field::connection, "close");
  if (keep_alive && version == 10) response.set(http::field::connection, "keep-alive");
  if (answer.status != 204) response.content_length(answer.body.size());
  if (head.method != "HEAD") response.body() = std::move(answer.body);
  error_code error;
  co_await http::async_write(socket_, response, asio::redirect_error(asio::use_awaitable, error));
  if (error) co_return false;
  if (!keep_alive) co_await linger();
  co_return keep_alive;
}

asio::awaitable<void> HttpConnection::linger() {
  enter(State::lingering, kLinger);
  error_code error;
  socket_.shutdown(tcp::socket::shutdown_send, error);
  static char unread[16 << 10];  // shared by all: its contents are never read
  for (std::size_t size = 0; !error && size < kLingerBytes;) {
    size += co_await socket_.async_read_some(asio::buffer(unread),
                                             asio::redirect_error(asio::use_awaitable, error));
  }
}

std::optional<HttpAnswer> HttpConnection::refusal(const error_code& error, bool has_target) const {
  if (error == asio::error::operation_aborted) {
    if (!timed_out_) return std::nullopt;
    if (core_.draining) return error_response(503, "the server is stopping");
    return error_response(408, "the request took too long to arrive");
  }
  if (error == http::error::header_limit) {
    const std::string limit = std::to_string(HttpLimits::kMaxHead) + " bytes";
    return has_target ? error_response(431, "the headers are too large: more than " + limit)
                      : error_response(414, "the path is too long: more than " + limit);
  }
  if (error == http::error::buffer_overflow) {  // a head that is too large is a header_limit
    return invalid("a chunk's size line, or the trailer after the last chunk, is longer than " +
                   std::to_string(HttpLimits::kMaxHead) + " bytes");
  }
  if (error == http::error::body_limit) {
    return error_response(
        413, "the body is too large: more than " + std::to_string(core_.limits.max_body) + " bytes");
  }
  if (error == boost::system::errc::not_enough_memory) {
    return error_response(503, "the requests being read take all memory they may: " +
                                   std::to_string(core_.memory.capacity()) + " bytes");
  }
  const bool gone = error == http::error::end_of_stream || error == http::error::partial_message;
  if (gone || error.category() != make_error_code(http::error::bad_method).category()) return std::nullopt;
  return invalid(error.message());
}

}  // namespace inference
