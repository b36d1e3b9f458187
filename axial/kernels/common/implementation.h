// SPDX-License-Identifier: Apache-2.0
// How a kernel family picks an implementation: a table in order of preference, the first that supports
// the parameters runs, and the refusals of the others become the error if none does.
#pragma once

#include <span>
#include <string>

#include "axial/core/check/status.h"
#include "axial/core/dtype/dtype.h"
#include "axial/core/parallel_for/parallel_for.h"

namespace axial::kernels {

/// One implementation of a kernel; the last of a table is the reference, which supports everything.
template <class Params>
struct Implementation {
  const char* name;
  /// Ok, or unsupported with the reason; must not allocate when ok.
  Status (*supports)(const Params& params);
  Status (*run)(const Params& params, const ParallelFor& parallel_for);
};

/// `supports` of a reference.
template <class Params>
Status supports_anything(const Params&) {
  return {};
}

/// `supports` of a kernel over float vectors: Params::dtype is float32, bfloat16 or float16.
template <class Params>
Status supports_narrow_floats(const Params& params) {
  if (params.dtype == DType::kF32 || params.dtype == DType::kBF16 || params.dtype == DType::kF16) return {};
  return Status::unsupported(
      fmt::format("expected float32, bfloat16 or float16, got {}", name_of(params.dtype)));
}

/// Run the first implementation of `table` that supports `params`.
template <class Params>
Status run_first(std::span<const Implementation<Params>> table, const Params& params,
                 const ParallelFor& parallel_for) {
  std::string refusals;
  for (const Implementation<Params>& candidate : table) {
    const Status supported = candidate.supports(params);
    if (supported.ok()) return candidate.run(params, parallel_for);
    refusals += fmt::format("{}{}: {}", refusals.empty() ? "" : "; ", candidate.name, supported.text);
  }
  return Status::unsupported("no implementation accepts the arguments (" + refusals + ")");
}

}  // namespace axial::kernels
