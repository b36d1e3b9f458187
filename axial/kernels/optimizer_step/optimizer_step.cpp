// SPDX-License-Identifier: Apache-2.0
// Argument checks and tables of implementations of optimizer_step.h.
#include "axial/kernels/optimizer_step/optimizer_step.h"

#include "axial/kernels/optimizer_step/implementations.h"

namespace axial::kernels {
namespace {

using namespace optimizer_step;

template <class Params>
Status anything(const Params&) {
  return {};
}

constexpr Implementation<AdamWStep> kAdamW[] = {
    {"simd", anything<AdamWStep>, simd_adamw_step},
    {"reference", anything<AdamWStep>, reference_adamw_step},
};
constexpr Implementation<SumOfSquares> kSumOfSquares[] = {
    {"simd", anything<SumOfSquares>, simd_sum_of_squares},
    {"reference", anything<SumOfSquares>, reference_sum_of_squares},
};
constexpr Implementation<FiniteCheck> kFiniteCheck[] = {
    {"simd", anything<FiniteCheck>, simd_finite_check},
    {"reference", anything<FiniteCheck>, reference_finite_check},
};

bool is_floating(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

Status check_dtypes(const AdamWStep& p) {
  if (p.dtype != DType::kF32 && p.dtype != DType::kF64) {
    return Status::unsupported(
        fmt::format("parameters; expected float32 or float64, got {}", name_of(p.dtype)));
  }
  const bool wide = p.dtype == DType::kF64;
  const bool pairs = wide ? p.grad_dtype == DType::kF64 || p.grad_dtype == DType::kF32
                          : is_floating(p.grad_dtype) && p.grad_dtype != DType::kF64;
  if (!pairs) {
    return Status::unsupported(
        fmt::format("gradients of {} parameters; expected {}, got {}", name_of(p.dtype),
                    wide ? "float64 or float32" : "float32, bfloat16 or float16", name_of(p.grad_dtype)));
  }
  if (!is_floating(p.copy_dtype) || p.copy_dtype == DType::kF64) {
    return Status::unsupported(
        fmt::format("copies; expected float32, bfloat16 or float16, got {}", name_of(p.copy_dtype)));
  }
  return {};
}

Status check(const AdamWStep& p) {
  if (Status dtypes = check_dtypes(p); !dtypes.ok()) return dtypes;
  if (!(p.beta1 >= 0 && p.beta1 < 1 && p.beta2 >= 0 && p.beta2 < 1)) {
    return Status::invalid(fmt::format("betas; expected both in [0, 1), got {} and {}", p.beta1, p.beta2));
  }
  if (!(p.eps >= 0)) return Status::invalid(fmt::format("eps; expected >= 0, got {}", p.eps));
  for (size_t i = 0; i < p.tensors.size(); ++i) {
    const AdamWTensor& t = p.tensors[i];
    if (t.count < 0)
      return Status::invalid(fmt::format("count of tensor {}; expected >= 0, got {}", i, t.count));
    if (t.step < 1)
      return Status::invalid(fmt::format("step of tensor {}; expected >= 1, got {}", i, t.step));
    if (t.count > 0 &&
        (t.parameter == nullptr || t.exp_avg == nullptr || t.exp_avg_sq == nullptr || t.grad == nullptr)) {
      return Status::invalid(fmt::format("tensor {}; expected parameter, moments and gradient, got null", i));
    }
  }
  return {};
}

template <class Params>
Status check_list(const Params& p) {
  if (!is_floating(p.dtype)) {
    return Status::unsupported(
        fmt::format("expected float64, float32, bfloat16 or float16, got {}", name_of(p.dtype)));
  }
  for (size_t i = 0; i < p.tensors.size(); ++i) {
    const ListedTensor& t = p.tensors[i];
    if (t.count < 0)
      return Status::invalid(fmt::format("count of tensor {}; expected >= 0, got {}", i, t.count));
    if (t.count > 0 && t.data == nullptr) {
      return Status::invalid(fmt::format("tensor {}; expected {} elements, got null", i, t.count));
    }
  }
  return {};
}

}  // namespace

std::span<const Implementation<AdamWStep>> adamw_step_table() { return kAdamW; }
std::span<const Implementation<SumOfSquares>> sum_of_squares_table() { return kSumOfSquares; }
std::span<const Implementation<FiniteCheck>> finite_check_table() { return kFiniteCheck; }

int64_t workspace_bytes(const SumOfSquares& params) {
  const int64_t chunks = (total_count(params.tensors) + kChunk - 1) / kChunk;
  return (chunks + static_cast<int64_t>(params.tensors.size())) * static_cast<int64_t>(sizeof(double));
}

Status adamw_step(const AdamWStep& params, const ParallelFor& parallel_for) {
  if (Status checked = check(params); !checked.ok()) return checked;
  return run_first(adamw_step_table(), params, parallel_for);
}

Status sum_of_squares(const SumOfSquares& params, const ParallelFor& parallel_for) {
  if (Status checked = check_list(params); !checked.ok()) return checked;
  return run_first(sum_of_squares_table(), params, parallel_for);
}

Status finite_check(const FiniteCheck& params, const ParallelFor& parallel_for) {
  if (Status checked = check_list(params); !checked.ok()) return checked;
  return run_first(finite_check_table(), params, parallel_for);
}

}  // namespace axial::kernels
