// SPDX-License-Identifier: Apache-2.0
// MPI as the algorithms use it: transfers that never block, and one rule for failures. If a call of MPI fails
// on a rank, it tells all others, everybody leaves the call with that status, and the communicator is of no
// more use. So nobody waits for a rank that has gone on.
#pragma once

#include <kumiko/status.h>
#include <mpi.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
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

  // Each starts a transfer; a failure is seen by failed() and by the next wait().
  void send(const void* from, int count, MPI_Datatype type, int to, int tag, MPI_Request* request);
  void receive(void* to, int count, MPI_Datatype type, int from, int tag, MPI_Request* request);
  void reduce_max(std::vector<std::uint64_t>* values, MPI_Request* request);
  void broadcast(void* data, int bytes, int root, MPI_Request* request);
  /// Blocks of `type`; counts and places of all ranks.
  void exchange(const void* from, const std::vector<int>& sent, void* to, const std::vector<int>& received,
                MPI_Datatype type, MPI_Request* request);
  void gather_all(const void* from, int count, void* to, const std::vector<int>& counts,
                  MPI_Request* request);

  /// `bytes` as one element. MPI_DATATYPE_NULL after a failure.
  MPI_Datatype make_type(std::int64_t bytes);
  void free_type(MPI_Datatype* type);

  /// Whether the transfer is done, or the communicator has failed. Progress of all others is made, too.
  bool test(MPI_Request* request);
  /// Until all are done. false: the communicator has failed.
  bool wait(MPI_Request* requests, std::size_t count);
  bool wait(MPI_Request* request) { return wait(request, 1); }

  bool failed() const { return !status_.ok(); }
  const Status& status() const { return status_; }
  /// Keeps what transfers that will never end still point to.
  void keep(std::shared_ptr<void> memory) { kept_.push_back(std::move(memory)); }

 private:
  Transport() = default;
  bool check(int code, const char* call);
  void look_for_notice();
  void tell_others();
  void fail(std::string what);

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1, level_ = MPI_THREAD_SINGLE;
  Status status_;
  std::atomic<bool> busy_{false};
  std::vector<std::shared_ptr<void>> kept_;
  static constexpr int kNoticeBytes = 400;
  struct Notice {
    char text[kNoticeBytes];
  };
  Notice notice_{};
  std::chrono::steady_clock::time_point looked_{};
};

}  // namespace kumiko::distributed
