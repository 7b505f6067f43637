// SPDX-License-Identifier: Apache-2.0
// MPI as the algorithms use it: transfers that never block, and one rule for failures. If a call of MPI fails
// on a rank, or a rank cannot go on for another reason, it tells all others, every rank leaves the call with
// that status, and the communicator can no longer be used. So no rank waits for one that has left. Reporting
// a failure and agreeing on a status allocate no memory, because there may be none left.
#pragma once

#include <kumiko/status.h>
#include <mpi.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace kumiko::distributed {

class Transport {
 public:
  /// Errors: as Communicator::create().
  static Status create(MPI_Comm comm, std::unique_ptr<Transport>* made);
  ~Transport();
  Transport(const Transport&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  /// The right to use MPI for one call, checked against the thread level.
  class Turn {
   public:
    explicit Turn(Transport& transport);
    ~Turn();
    Turn(const Turn&) = delete;
    const Status& status() const { return status_; }

   private:
    Transport& transport_;
    Status status_;
    bool has_communicator_ = false, has_process_ = false;
  };

  /// The maximum of each word over all ranks, for up to kMostWords words. Only one reduction at a time, from
  /// start to finish. false: the communicator has failed.
  static constexpr std::size_t kMostWords = 128;
  void start_reduce_max(std::span<const std::uint64_t> words, MPI_Request* request);
  bool finish_reduce_max(MPI_Request* request, std::span<std::uint64_t> words);
  bool reduce_max(std::span<std::uint64_t> words) {
    MPI_Request request = MPI_REQUEST_NULL;
    start_reduce_max(words, &request);
    return finish_reduce_max(&request, words);
  }
  /// Sends the code and the text of rank `root` to all ranks. false: the communicator has failed.
  struct Verdict {
    std::int32_t code = 0;
    char text[500] = "";
  };
  bool broadcast(Verdict* verdict, int root);

  // Each starts a transfer; a failure is seen by failed() and by the next wait().
  void send(const void* from, int count, MPI_Datatype type, int to, int tag, MPI_Request* request);
  void receive(void* to, int count, MPI_Datatype type, int from, int tag, MPI_Request* request);
  /// All to all: `sent[r]` blocks of `type` to rank r, `received[r]` from it, in the order of ranks.
  void exchange(const void* from, const std::vector<int>& sent, void* to, const std::vector<int>& received,
                MPI_Datatype type, MPI_Request* request);
  void gather_all(const void* from, int count, void* to, const std::vector<int>& counts,
                  MPI_Request* request);

  /// A type of `bytes` bytes. MPI_DATATYPE_NULL after a failure.
  MPI_Datatype make_type(std::int64_t bytes);
  void free_type(MPI_Datatype* type);

  /// Whether the transfer is done, or the communicator has failed. All other transfers make progress, too.
  bool test(MPI_Request* request);
  /// Until all are done. false: the communicator has failed.
  bool wait(MPI_Request* requests, std::size_t count);
  bool wait(MPI_Request* request) { return wait(request, 1); }

  bool failed() const { return has_failed_; }
  Status status() const;
  /// This rank cannot go on: the error becomes that of all ranks.
  void abandon(Code code, const char* text) noexcept;
  /// Keeps memory that transfers point to which may never end, until the end of a call without failure. A
  /// call keeps at most kMostKept pieces.
  void keep(std::shared_ptr<void> memory) noexcept;

 private:
  Transport() = default;
  Status set_up();
  bool check(int code, const char* call) noexcept;
  void look_for_notice();
  void tell_others() noexcept;

  static constexpr std::size_t kMostKept = 16;
  /// What travels to all ranks when one has failed.
  struct Notice {
    std::int32_t code = 0;
    char text[396] = "";
  };
  /// What MPI may still use after a failure; never freed then.
  struct Pinned {
    std::uint64_t words[kMostWords] = {};
    Verdict verdict;
    Notice notice;
    std::vector<std::shared_ptr<void>> kept;
  };

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1, level_ = MPI_THREAD_SINGLE;
  bool is_inter_ = false, has_failed_ = false;
  std::atomic<bool> busy_{false};
  std::unique_ptr<Pinned> pinned_ = std::make_unique<Pinned>();
  std::vector<MPI_Request> telling_;  ///< [ranks]
  std::chrono::steady_clock::time_point looked_{};
};

}  // namespace kumiko::distributed
