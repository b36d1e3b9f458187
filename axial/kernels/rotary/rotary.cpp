// SPDX-License-Identifier: Apache-2.0
// Argument checks and table of implementations of rotary.h.
#include "axial/kernels/rotary/rotary.h"

#include <cmath>

#include "axial/kernels/rotary/implementations.h"

namespace axial::kernels {
namespace {

Status anything(const Rotary&) { return {}; }

constexpr Implementation<Rotary> kTable[] = {
    {"simd", anything, rotary_impl::simd_rotary},
    {"reference", anything, rotary_impl::reference_rotary},
};

Status check(const Rotary& p) {
  if (p.dtype > DType::kF16) {
    return Status::unsupported(
        fmt::format("expected float64, float32, bfloat16 or float16, got {}", name_of(p.dtype)));
  }
  if (p.tokens < 0 || p.heads < 0 || p.pairs < 0 || 2 * p.pairs > p.head_dim) {
    return Status::invalid(fmt::format(
        "sizes; expected no negative one and 2 * pairs <= head width, got {} tokens, {} heads of {}, "
        "{} pairs",
        p.tokens, p.heads, p.head_dim, p.pairs));
  }
  if (p.x == p.y && p.x != nullptr &&
      (p.x_token_stride != p.y_token_stride || p.x_head_stride != p.y_head_stride)) {
    return Status::invalid("in place; expected equal strides of x and y");
  }
  for (int64_t i = 0; i < p.pairs; ++i) {
    if (!std::isfinite(p.inv_freq[i])) {
      return Status::invalid(fmt::format("inv_freq[{}]; expected a finite number, got {}", i, p.inv_freq[i]));
    }
  }
  return {};
}

}  // namespace

std::span<const Implementation<Rotary>> rotary_table() { return kTable; }

Status rotary(const Rotary& params, const ParallelFor& parallel_for) {
  if (Status checked = check(params); !checked.ok()) return checked;
  if (params.tokens == 0 || params.heads == 0 || params.head_dim == 0) return {};
  return run_first(rotary_table(), params, parallel_for);
}

}  // namespace axial::kernels
