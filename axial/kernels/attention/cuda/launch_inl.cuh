// SPDX-License-Identifier: Apache-2.0
// launch_forward and launch_backward of launch.h. Included by the *.cu of each dtype alone.
#pragma once

#include "axial/kernels/attention/cuda/launch.h"
#include "axial/kernels/attention/cuda/run.h"
#include "axial/kernels/device/cuda_grid.cuh"

namespace axial::kernels::attention::cuda {

template <class T>
Status launch_forward(const AttentionForward& params, void* stream) {
  const device::CudaGrid<kThreads> grid("attention forward", static_cast<cudaStream_t>(stream));
  for_width(params.in.sizes.width, [&]<int kWidth>() { run_forward<T, kWidth>(params, grid); });
  return grid.status();
}

template <class T>
Status launch_backward(const AttentionBackward& params, void* stream) {
  const device::CudaGrid<kThreads> grid("attention backward", static_cast<cudaStream_t>(stream));
  for_width(params.in.sizes.width, [&]<int kWidth>() {
    run_backward<T, kWidth>(params, static_cast<float*>(params.workspace), grid);
  });
  return grid.status();
}

}  // namespace axial::kernels::attention::cuda
