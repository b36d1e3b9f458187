// SPDX-License-Identifier: Apache-2.0
// The file that sees NCCL's headers; AXIAL_NCCL is set where torch has CUDA (CMakeLists.txt).
#include "axial/parallel/communicator/nccl.h"

#ifdef AXIAL_NCCL

#define USE_C10D_NCCL  // NOLINT(readability-identifier-naming): torch asks for it
#include <ATen/Context.h>

#include <cstdlib>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

namespace axial::parallel {

C10dBackends nccl_backends(const c10::intrusive_ptr<c10d::Store>& store, std::chrono::milliseconds timeout) {
  if (!at::hasCUDA()) return {};
  // A wait that fails is an exception, which names rank, axis and op; torch's watchdog would end the process.
  ::setenv("TORCH_NCCL_BLOCKING_WAIT", "1", 0);
  ::setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", 0);
  const auto make = [store, timeout](const Group& group) -> c10::intrusive_ptr<c10d::Backend> {
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = timeout;
    const auto prefixed = c10::make_intrusive<c10d::PrefixStore>("nccl/" + meeting_place(group), store);
    return c10::make_intrusive<c10d::ProcessGroupNCCL>(prefixed, static_cast<int>(group.rank),
                                                       static_cast<int>(group.size()), options);
  };
  return {make, true};
}

}  // namespace axial::parallel

#else

#include <torch/csrc/distributed/c10d/Store.hpp>

namespace axial::parallel {

C10dBackends nccl_backends(const c10::intrusive_ptr<c10d::Store>& /*store*/,
                           std::chrono::milliseconds /*timeout*/) {
  return {};
}

}  // namespace axial::parallel

#endif
