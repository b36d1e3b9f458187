// SPDX-License-Identifier: Apache-2.0
// A block of threads on a CUDA device from compute capability 8.0 on: what kernels ask of a block, in PTX.
// The same functions run on the host in testing/emulated_block.h. Included by *.cu alone.
#pragma once

#include "axial/kernels/device/device.h"

namespace axial::kernels::device {

/// `kThreads` threads, whole warps. Shared memory is dynamic; arrays are pieces of it that the kernel places.
template <int kThreads>
class CudaBlock {
 public:
  template <class T>
  using Array = T*;

  static constexpr int threads() { return kThreads; }
  __device__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ int warp() const { return thread() / kWarp; }
  __device__ int lane() const { return thread() % kWarp; }
  __device__ int64_t index() const { return static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x; }

  template <class T>
  __device__ Array<T> array(int offset_bytes, int) const {
    extern __shared__ __align__(128) unsigned char shared[];
    return reinterpret_cast<T*>(shared + offset_bytes);
  }
  template <class T>
  __device__ T load(Array<T> from, int at) const {
    return from[at];
  }
  template <class T>
  __device__ void store(Array<T> to, int at, T value) const {
    to[at] = value;
  }
  /// 8 elements of 16 bits; `at` is a multiple of 8.
  __device__ void store_chunk(Array<uint16_t> to, int at, const uint32_t (&words)[4]) const {
    *reinterpret_cast<uint4*>(to + at) = make_uint4(words[0], words[1], words[2], words[3]);
  }
  /// The same from memory of the device, on the way until wait(); zeros where `wanted` is false.
  __device__ void copy_chunk(Array<uint16_t> to, int at, const uint16_t* from, bool wanted) const {
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to + at));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
                 "r"(wanted ? 16 : 0)
                 : "memory");
  }
  /// Ends a group of copies.
  __device__ void commit() const { asm volatile("cp.async.commit_group;" ::: "memory"); }
  /// All but the last `kGroups` groups of this thread have arrived.
  template <int kGroups>
  __device__ void wait() const {
    asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
  }

  __device__ void sync() const { __syncthreads(); }
  template <class V>
  __device__ V shuffle_xor(V value, int mask) const {
    return __shfl_xor_sync(0xffffffffu, value, mask);
  }
  /// Four matrices of 8 x 8 elements; a lane addresses one row of one of them (tile_map.h).
  template <bool kTurned>
  __device__ void load_matrices(uint32_t (&words)[4], Array<uint16_t> from, int at) const {
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(from + at));
    if constexpr (kTurned) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                   : "r"(address)
                   : "memory");
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                   : "r"(address)
                   : "memory");
    }
  }
  /// c [16, 8] += a [16, 16] b [16, 8]; T is BFloat16 or Float16, sums are fp32.
  template <class T>
  __device__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) const {
    if constexpr (std::is_same_v<T, BFloat16>) {
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
          "{%0,%1,%2,%3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
          "{%0,%1,%2,%3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
  }
};

}  // namespace axial::kernels::device
