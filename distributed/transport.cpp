// SPDX-License-Identifier: Apache-2.0
#include "distributed/transport.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>

namespace kumiko::distributed {
namespace {

constexpr int kNoticeTag = 32767;  // the largest that every MPI has
// Calls in progress of threads that must not call MPI side by side.
std::atomic<bool> g_process_is_busy{false};

bool is_running() {
  int started = 0, ended = 0;
  MPI_Initialized(&started);
  if (started) MPI_Finalized(&ended);
  return started && !ended;
}

/// Whether this thread may call MPI at all.
Status check_thread(int level) {
  if (level >= MPI_THREAD_SERIALIZED) return {};
  int is_main = 0;
  if (MPI_Is_thread_main(&is_main) == MPI_SUCCESS && is_main) return {};
  return {Code::unsupported,
          std::string("MPI was initialized with ") +
              (level == MPI_THREAD_FUNNELED ? "MPI_THREAD_FUNNELED" : "MPI_THREAD_SINGLE") +
              ", which lets its own thread alone call; expected MPI_THREAD_SERIALIZED or _MULTIPLE"};
}

std::string text_of(int code) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) return "error " + std::to_string(code);
  return std::string(text, static_cast<std::size_t>(length));
}

}  // namespace

Status Transport::create(MPI_Comm comm, std::unique_ptr<Transport>* made) {
  if (!is_running())
    return {Code::invalid_argument, "MPI is not initialized, or is finalized; expected MPI_Init before"};
  if (comm == MPI_COMM_NULL)
    return {Code::invalid_argument, "comm is MPI_COMM_NULL; expected a communicator of this rank"};
  std::unique_ptr<Transport> transport(new Transport);
  MPI_Query_thread(&transport->level_);
  if (Status s = check_thread(transport->level_); !s.ok()) return s;
  int is_inter = 0;
  if (!transport->check(MPI_Comm_test_inter(comm, &is_inter), "MPI_Comm_test_inter"))
    return transport->status_;
  if (is_inter)
    return {Code::invalid_argument, "comm is an intercommunicator; expected an intracommunicator"};
  MPI_Comm own = MPI_COMM_NULL;
  if (!transport->check(MPI_Comm_dup(comm, &own), "MPI_Comm_dup")) return transport->status_;
  transport->comm_ = own;
  if (!transport->check(MPI_Comm_set_errhandler(own, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler") ||
      !transport->check(MPI_Comm_rank(own, &transport->rank_), "MPI_Comm_rank") ||
      !transport->check(MPI_Comm_size(own, &transport->size_), "MPI_Comm_size"))
    return transport->status_;
  *made = std::move(transport);
  return {};
}

Transport::~Transport() {
  // Transfers that never end may still use a communicator that has failed.
  if (comm_ != MPI_COMM_NULL && is_running() && !failed()) MPI_Comm_free(&comm_);
  if (failed()) {
    for (std::shared_ptr<void>& memory : kept_) new std::shared_ptr<void>(std::move(memory));
  }
}

Transport::Turn::Turn(Transport& transport) : transport_(transport) {
  if (transport.failed()) {
    status_ = {Code::communication,
               "the communicator has failed before; expected a new one: " + transport.status_.message()};
    return;
  }
  if (!is_running()) {
    status_ = {Code::invalid_argument, "MPI is finalized; expected a call before MPI_Finalize"};
    return;
  }
  if (status_ = check_thread(transport.level_); !status_.ok()) return;
  has_communicator_ = !transport.busy_.exchange(true);
  if (!has_communicator_) {
    status_ = {Code::unsupported,
               "the communicator is in use by another thread; expected one call at a time, or another one"};
    return;
  }
  if (transport.level_ == MPI_THREAD_MULTIPLE) return;
  has_process_ = !g_process_is_busy.exchange(true);
  if (!has_process_)
    status_ = {Code::unsupported,
               "another thread is in a call on another communicator; expected MPI to be initialized with "
               "MPI_THREAD_MULTIPLE for that"};
}

Transport::Turn::~Turn() {
  if (has_process_) g_process_is_busy.store(false);
  if (!has_communicator_) return;
  if (!transport_.failed()) transport_.kept_.clear();
  transport_.busy_.store(false);
}

void Transport::send(const void* from, int count, MPI_Datatype type, int to, int tag, MPI_Request* request) {
  if (!failed()) check(MPI_Isend(from, count, type, to, tag, comm_, request), "MPI_Isend");
}

void Transport::receive(void* to, int count, MPI_Datatype type, int from, int tag, MPI_Request* request) {
  if (!failed()) check(MPI_Irecv(to, count, type, from, tag, comm_, request), "MPI_Irecv");
}

void Transport::reduce_max(std::vector<std::uint64_t>* values, MPI_Request* request) {
  if (failed()) return;
  check(MPI_Iallreduce(MPI_IN_PLACE, values->data(), static_cast<int>(values->size()), MPI_UINT64_T, MPI_MAX,
                       comm_, request),
        "MPI_Iallreduce");
}

void Transport::broadcast(void* data, int bytes, int root, MPI_Request* request) {
  if (!failed()) check(MPI_Ibcast(data, bytes, MPI_BYTE, root, comm_, request), "MPI_Ibcast");
}

namespace {

std::vector<int> places_of(const std::vector<int>& counts) {
  std::vector<int> places;
  int next = 0;
  for (const int count : counts) {
    places.push_back(next);
    next += count;
  }
  return places;
}

}  // namespace

void Transport::exchange(const void* from, const std::vector<int>& sent, void* to,
                         const std::vector<int>& received, MPI_Datatype type, MPI_Request* request) {
  // Messages rather than one collective: only neighbours that have something for each other meet.
  const std::vector<int> first = places_of(sent), last = places_of(received);
  if (failed()) return;
  // MPI keeps no copy of the arrays, and reads them until the exchange is done.
  auto lists = std::make_shared<std::array<std::vector<int>, 4>>(
      std::array<std::vector<int>, 4>{sent, first, received, last});
  kept_.push_back(lists);
  check(MPI_Ialltoallv(from, (*lists)[0].data(), (*lists)[1].data(), type, to, (*lists)[2].data(),
                       (*lists)[3].data(), type, comm_, request),
        "MPI_Ialltoallv");
}

void Transport::gather_all(const void* from, int count, void* to, const std::vector<int>& counts,
                           MPI_Request* request) {
  if (failed()) return;
  auto lists = std::make_shared<std::array<std::vector<int>, 2>>(
      std::array<std::vector<int>, 2>{counts, places_of(counts)});
  kept_.push_back(lists);
  check(MPI_Iallgatherv(from, count, MPI_BYTE, to, (*lists)[0].data(), (*lists)[1].data(), MPI_BYTE, comm_,
                        request),
        "MPI_Iallgatherv");
}

MPI_Datatype Transport::make_type(std::int64_t bytes) {
  MPI_Datatype type = MPI_DATATYPE_NULL;
  if (failed()) return type;
  if (!check(MPI_Type_contiguous(static_cast<int>(bytes), MPI_BYTE, &type), "MPI_Type_contiguous") ||
      !check(MPI_Type_commit(&type), "MPI_Type_commit"))
    return MPI_DATATYPE_NULL;
  return type;
}

void Transport::free_type(MPI_Datatype* type) {
  if (*type != MPI_DATATYPE_NULL && !failed()) check(MPI_Type_free(type), "MPI_Type_free");
  *type = MPI_DATATYPE_NULL;
}

bool Transport::test(MPI_Request* request) {
  int done = 0;
  if (!failed()) check(MPI_Test(request, &done, MPI_STATUS_IGNORE), "MPI_Test");
  // A look costs 0.2 us and more on many ranks; a failure may be seen that much later.
  if (!done && !failed()) look_for_notice();
  return done || failed();
}

bool Transport::wait(MPI_Request* requests, std::size_t count) {
  int tries = 0;
  for (std::size_t i = 0; i < count; ++i) {
    while (!test(&requests[i])) {
      // Ranks may share cores; what is waited for then needs this one.
      if (++tries > 20) std::this_thread::yield();
    }
  }
  return !failed();
}

bool Transport::check(int code, const char* call) {
  if (code == MPI_SUCCESS) return true;
  fail(std::string(call) + " failed on rank " + std::to_string(rank_) + ": " + text_of(code));
  tell_others();
  return false;
}

void Transport::fail(std::string what) {
  if (!failed()) status_ = {Code::communication, std::move(what)};
}

void Transport::look_for_notice() {
  const auto now = std::chrono::steady_clock::now();
  if (now - looked_ < std::chrono::microseconds(100)) return;
  looked_ = now;
  int found = 0;
  MPI_Status from;
  if (!check(MPI_Iprobe(MPI_ANY_SOURCE, kNoticeTag, comm_, &found, &from), "MPI_Iprobe") || !found) return;
  Notice notice{};
  if (!check(MPI_Recv(notice.text, kNoticeBytes, MPI_CHAR, from.MPI_SOURCE, kNoticeTag, comm_,
                      MPI_STATUS_IGNORE),
             "MPI_Recv"))
    return;
  notice.text[kNoticeBytes - 1] = '\0';
  fail(notice.text);
}

void Transport::tell_others() {
  if (comm_ == MPI_COMM_NULL) return;
  const std::size_t length = std::min(status_.message().size(), sizeof notice_.text - 1);
  std::memcpy(notice_.text, status_.message().data(), length);
  for (int to = 0; to < size_; ++to) {
    if (to == rank_) continue;
    MPI_Request request = MPI_REQUEST_NULL;
    // So short a message needs no receiver to be ready; nothing is left to do if this fails, too.
    if (MPI_Isend(notice_.text, kNoticeBytes, MPI_CHAR, to, kNoticeTag, comm_, &request) == MPI_SUCCESS)
      MPI_Request_free(&request);
  }
}

}  // namespace kumiko::distributed
