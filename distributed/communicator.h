// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <memory>
#include <new>

#include "distributed/distributed.h"
#include "distributed/transport.h"
#include "distributed/workspace.h"

namespace kumiko::distributed {

struct Communicator::Impl {
  std::unique_ptr<Transport> transport;
  Machine machine;
  Workspace workspace;
};

struct Access {
  static Communicator::Impl& of(const Communicator& communicator) { return *communicator.impl_; }
  /// Communicator::create() where this rank may have found an error already, which becomes that of all.
  static Status create(MPI_Comm comm, const Machine& machine, const Status& error, Communicator* made);
};

/// An error if the communicator is empty.
Status check_communicator(const Communicator& communicator);

/// Wraps every public call: no call throws.
template <class Body>
Status guarded(Body&& body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return {Code::out_of_memory, "out of memory"};
  } catch (const std::exception& e) {
    try {
      return {Code::internal, e.what()};
    } catch (...) {  // no memory for the message
    }
  } catch (...) {
  }
  return {Code::internal, "exception"};
}

/// After ranks have agreed on a call: an exception on this rank must not leave the others waiting.
template <class Body>
Status guarded_for_all(Transport& transport, Body&& body) noexcept {
  return guarded([&]() -> Status {
    try {
      return body();
    } catch (const std::bad_alloc&) {
      transport.abandon(Code::out_of_memory, "out of memory");
    } catch (const std::exception& e) {
      transport.abandon(Code::internal, e.what());
    }
    return transport.status();
  });
}

}  // namespace kumiko::distributed
