// SPDX-License-Identifier: Apache-2.0
// Launches kernels that are classes over a block (device/cuda_block.cuh) on a stream of the current device.
// Included by *.cu alone.
#pragma once

#include <cuda_runtime.h>

#include "axial/core/check/status.h"
#include "axial/kernels/device/cuda_block.cuh"

namespace axial::kernels::device {

// One for each number of arguments: they stay in constant memory, where compilers take them as
// __grid_constant__, which in a pack they do not.
template <class Kernel, int kThreads, class A>
__global__ void __launch_bounds__(kThreads, 1) run_kernel(int64_t blocks, const __grid_constant__ A a) {
  CudaBlock<kThreads> block;
  if (block.index() < blocks) Kernel(block, a).run();
}
template <class Kernel, int kThreads, class A, class B>
__global__ void __launch_bounds__(kThreads, 1)
    run_kernel(int64_t blocks, const __grid_constant__ A a, const __grid_constant__ B b) {
  CudaBlock<kThreads> block;
  if (block.index() < blocks) Kernel(block, a, b).run();
}
template <class Kernel, int kThreads, class A, class B, class C>
__global__ void __launch_bounds__(kThreads, 1)
    run_kernel(int64_t blocks, const __grid_constant__ A a, const __grid_constant__ B b,
               const __grid_constant__ C c) {
  CudaBlock<kThreads> block;
  if (block.index() < blocks) Kernel(block, a, b, c).run();
}

/// The first launch that fails is kept; later ones are left out.
template <int kThreads>
class CudaGrid {
 public:
  using Block = CudaBlock<kThreads>;
  CudaGrid(const char* op, cudaStream_t stream) : op_(op), stream_(stream) {}

  /// Kernel::blocks(args...) blocks with Kernel::kSharedBytes of shared memory, any number of them.
  template <class Kernel, class... Args>
  void run(const Args&... args) const {
    constexpr int64_t kMostOfRow = int64_t{1} << 30;
    constexpr int kGranted = 48 * 1024;  // without asking
    const int64_t blocks = Kernel::blocks(args...);
    if (!status_.ok() || blocks == 0) return;
    void (*const function)(int64_t, const Args...) = run_kernel<Kernel, kThreads, Args...>;
    if (Kernel::kSharedBytes > kGranted) {
      keep(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, Kernel::kSharedBytes),
           blocks);
      if (!status_.ok()) return;
    }
    const int64_t row = blocks < kMostOfRow ? blocks : kMostOfRow;
    const dim3 grid(static_cast<unsigned>(row), static_cast<unsigned>((blocks + row - 1) / row));
    // Not <<<>>>: its error is the last of anyone's.
    int64_t count = blocks;
    void* arguments[] = {&count, const_cast<Args*>(&args)...};
    keep(cudaLaunchKernel(reinterpret_cast<const void*>(function), grid, dim3(kThreads), arguments,
                          Kernel::kSharedBytes, stream_),
         blocks);
  }

  const Status& status() const { return status_; }

 private:
  void keep(cudaError_t error, int64_t blocks) const {
    if (error == cudaSuccess) return;
    (void)cudaGetLastError();  // told here, and to nobody else
    status_.code = StatusCode::kDevice;
    status_.text = fmt::format("{}: a launch of {} blocks of {} threads failed: {}", op_, blocks, kThreads,
                               cudaGetErrorString(error));
  }

  const char* op_;
  cudaStream_t stream_;
  mutable Status status_;
};

}  // namespace axial::kernels::device
