// SPDX-License-Identifier: Apache-2.0
#include "distributed/transport.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>

namespace kumiko::distributed {
namespace {

constexpr int kNoticeTag = 32767;  // the largest that every MPI has
// Below MPI_THREAD_MULTIPLE: whether a thread is in a call, beside which no other thread may call MPI.
std::atomic<bool> g_process_is_busy{false};

/// Takes the exclusive right to call MPI, where the thread level requires it. false: another thread has it.
bool take_process(int level) {
  return level == MPI_THREAD_MULTIPLE || !g_process_is_busy.exchange(true);
}
void give_process(int level) {
  if (level != MPI_THREAD_MULTIPLE) g_process_is_busy.store(false);
}
Status process_is_busy() {
  return {Code::unsupported,
          "another thread is in a call on another communicator; expected MPI to be initialized with "
          "MPI_THREAD_MULTIPLE for that"};
}

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
              ", which lets only the main thread call; expected MPI_THREAD_SERIALIZED or _MULTIPLE"};
}

/// Copies as much of a text as fits.
template <std::size_t kBytes>
void copy_text(char (&to)[kBytes], const char* from) {
  std::snprintf(to, kBytes, "%s", from);
}

}  // namespace

Status Transport::create(MPI_Comm comm, std::unique_ptr<Transport>* made) {
  if (!is_running())
    return {Code::invalid_argument,
            "MPI is not initialized, or is finalized; expected a call between MPI_Init and MPI_Finalize"};
  if (comm == MPI_COMM_NULL)
    return {Code::invalid_argument, "comm is MPI_COMM_NULL; expected a communicator of this rank"};
  std::unique_ptr<Transport> transport(new Transport);
  MPI_Query_thread(&transport->level_);
  if (Status s = check_thread(transport->level_); !s.ok()) return s;
  if (!take_process(transport->level_)) return process_is_busy();
  const struct Process {
    int level;
    ~Process() { give_process(level); }
  } process{transport->level_};
  MPI_Comm own = MPI_COMM_NULL;
  if (!transport->check(MPI_Comm_dup(comm, &own), "MPI_Comm_dup")) return transport->status();
  transport->comm_ = own;
  // From here on every rank takes part in the reduction, whatever it has found.
  Status mine;
  try {
    mine = transport->set_up();
  } catch (const std::bad_alloc&) {
    mine = {Code::out_of_memory, "out of memory"};
  }
  transport->has_failed_ = false;
  if (transport->is_inter_) return mine;  // all ranks have found this, and could not do a reduction
  std::uint64_t somewhere = mine.ok() ? 0 : 1;
  if (!transport->reduce_max({&somewhere, 1})) return transport->status();
  if (!mine.ok()) return mine;
  if (somewhere)
    return {Code::communication,
            "the communicator could not be set up on another rank, which has the reason"};
  *made = std::move(transport);
  return {};
}

Status Transport::set_up() {
  int is_inter = 0;
  if (!check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler") ||
      !check(MPI_Comm_test_inter(comm_, &is_inter), "MPI_Comm_test_inter"))
    return status();
  is_inter_ = is_inter != 0;
  if (is_inter_)
    return {Code::invalid_argument, "comm is an intercommunicator; expected an intracommunicator"};
  if (!check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank") ||
      !check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size"))
    return status();
  telling_.assign(static_cast<std::size_t>(size_), MPI_REQUEST_NULL);
  pinned_->kept.reserve(kMostKept);
  return {};
}

Transport::~Transport() {
  // Transfers that never end may still use a communicator that has failed, and its memory.
  if (failed())
    (void)pinned_.release();
  else if (comm_ != MPI_COMM_NULL && is_running())
    MPI_Comm_free(&comm_);
}

Transport::Turn::Turn(Transport& transport) : transport_(transport) {
  if (!is_running()) {
    status_ = {Code::invalid_argument, "MPI is finalized; expected a call before MPI_Finalize"};
    return;
  }
  if (status_ = check_thread(transport.level_); !status_.ok()) return;
  has_communicator_ = !transport.busy_.exchange(true);
  if (!has_communicator_) {
    status_ = {
        Code::unsupported,
        "the communicator is in use by another thread; expected one call at a time, or another communicator"};
    return;
  }
  // Only now, because before a call of another thread might have been about to fail.
  if (transport.failed()) {
    status_ = {Code::communication, std::string("the communicator has failed before; expected a new one: ") +
                                        transport.pinned_->notice.text};
    return;
  }
  has_process_ = take_process(transport.level_);
  if (!has_process_) status_ = process_is_busy();
}

Transport::Turn::~Turn() {
  if (has_process_) give_process(transport_.level_);
  if (!has_communicator_) return;
  if (!transport_.failed()) transport_.pinned_->kept.clear();
  transport_.busy_.store(false);
}

void Transport::send(const void* from, int count, MPI_Datatype type, int to, int tag, MPI_Request* request) {
  if (!failed()) check(MPI_Isend(from, count, type, to, tag, comm_, request), "MPI_Isend");
}

void Transport::receive(void* to, int count, MPI_Datatype type, int from, int tag, MPI_Request* request) {
  if (!failed()) check(MPI_Irecv(to, count, type, from, tag, comm_, request), "MPI_Irecv");
}

void Transport::start_reduce_max(std::span<const std::uint64_t> words, MPI_Request* request) {
  if (failed()) return;
  std::copy(words.begin(), words.end(), pinned_->words);
  check(MPI_Iallreduce(MPI_IN_PLACE, pinned_->words, static_cast<int>(words.size()), MPI_UINT64_T, MPI_MAX,
                       comm_, request),
        "MPI_Iallreduce");
}

bool Transport::finish_reduce_max(MPI_Request* request, std::span<std::uint64_t> words) {
  if (!wait(request)) return false;
  std::copy_n(pinned_->words, words.size(), words.begin());
  return true;
}

bool Transport::broadcast(Verdict* verdict, int root) {
  if (failed()) return false;
  pinned_->verdict = *verdict;
  MPI_Request request = MPI_REQUEST_NULL;
  check(MPI_Ibcast(&pinned_->verdict, sizeof(Verdict), MPI_BYTE, root, comm_, &request), "MPI_Ibcast");
  if (!wait(&request)) return false;
  *verdict = pinned_->verdict;
  return true;
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
  const std::vector<int> first = places_of(sent), last = places_of(received);
  if (failed()) return;
  // MPI keeps no copy of the arrays, and reads them until the exchange is done.
  auto lists = std::make_shared<std::array<std::vector<int>, 4>>(
      std::array<std::vector<int>, 4>{sent, first, received, last});
  keep(lists);
  check(MPI_Ialltoallv(from, (*lists)[0].data(), (*lists)[1].data(), type, to, (*lists)[2].data(),
                       (*lists)[3].data(), type, comm_, request),
        "MPI_Ialltoallv");
}

void Transport::gather_all(const void* from, int count, void* to, const std::vector<int>& counts,
                           MPI_Request* request) {
  if (failed()) return;
  auto lists = std::make_shared<std::array<std::vector<int>, 2>>(
      std::array<std::vector<int>, 2>{counts, places_of(counts)});
  keep(lists);
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

bool Transport::check(int code, const char* call) noexcept {
  if (code == MPI_SUCCESS) return true;
  if (failed()) return false;
  char reason[MPI_MAX_ERROR_STRING] = "", text[sizeof Notice::text];
  int length = 0;
  if (MPI_Error_string(code, reason, &length) != MPI_SUCCESS)
    std::snprintf(reason, sizeof reason, "error %d", code);
  std::snprintf(text, sizeof text, "%s failed on rank %d: %s", call, rank_, reason);
  pinned_->notice.code = static_cast<std::int32_t>(Code::communication);
  copy_text(pinned_->notice.text, text);
  tell_others();
  return false;
}

void Transport::abandon(Code code, const char* text) noexcept {
  if (failed()) return;
  pinned_->notice.code = static_cast<std::int32_t>(code);
  std::snprintf(pinned_->notice.text, sizeof pinned_->notice.text, "on rank %d: %s", rank_, text);
  tell_others();
}

Status Transport::status() const {
  if (!failed()) return {};
  return {static_cast<Code>(pinned_->notice.code), pinned_->notice.text};
}

void Transport::keep(std::shared_ptr<void> memory) noexcept {
  pinned_->kept.push_back(std::move(memory));
}

void Transport::look_for_notice() {
  const auto now = std::chrono::steady_clock::now();
  if (now - looked_ < std::chrono::microseconds(100)) return;
  looked_ = now;
  int found = 0;
  MPI_Status from;
  if (!check(MPI_Iprobe(MPI_ANY_SOURCE, kNoticeTag, comm_, &found, &from), "MPI_Iprobe") || !found) return;
  Notice notice;
  if (!check(
          MPI_Recv(&notice, sizeof notice, MPI_BYTE, from.MPI_SOURCE, kNoticeTag, comm_, MPI_STATUS_IGNORE),
          "MPI_Recv"))
    return;
  notice.text[sizeof notice.text - 1] = '\0';
  pinned_->notice = notice;
  has_failed_ = true;
}

/// A rank may have to connect to another one first, so that its notice leaves only while it calls MPI. It
/// does so for a second at most, because the other ranks may be unable to receive.
void Transport::tell_others() noexcept {
  has_failed_ = true;
  if (comm_ == MPI_COMM_NULL || telling_.empty()) return;
  for (int to = 0; to < size_; ++to) {
    if (to == rank_) continue;
    // Nothing is left to do if this fails, too.
    MPI_Isend(&pinned_->notice, sizeof(Notice), MPI_BYTE, to, kNoticeTag, comm_,
              &telling_[static_cast<std::size_t>(to)]);
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  for (MPI_Request& request : telling_) {
    int done = 0;
    while (request != MPI_REQUEST_NULL && !done && std::chrono::steady_clock::now() < end) {
      if (MPI_Test(&request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) break;
      if (!done) std::this_thread::yield();
    }
    if (request != MPI_REQUEST_NULL) MPI_Request_free(&request);
  }
}

}  // namespace kumiko::distributed
