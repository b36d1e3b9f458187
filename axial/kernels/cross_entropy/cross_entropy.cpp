// SPDX-License-Identifier: Apache-2.0
// Argument checks, the choice of implementation and the final sum for cross_entropy.h.
#include "axial/kernels/cross_entropy/cross_entropy.h"

#include "axial/kernels/cross_entropy/implementations.h"

namespace axial::kernels {
namespace {

constexpr Implementation<CrossEntropyForward> kForward[] = {
    {"simd", supports_narrow_floats<CrossEntropyForward>, cross_entropy::simd_forward},
    {"reference", supports_anything<CrossEntropyForward>, cross_entropy::reference_forward},
};
constexpr Implementation<CrossEntropyBackward> kBackward[] = {
    {"simd", supports_narrow_floats<CrossEntropyBackward>, cross_entropy::simd_backward},
    {"reference", supports_anything<CrossEntropyBackward>, cross_entropy::reference_backward},
};

template <class Params>
Status check(const Params& p) {
  if (p.rows < 0 || p.cols < 1) {
    return Status::invalid(
        fmt::format("expected rows >= 0 and at least one class, got {} x {}", p.rows, p.cols));
  }
  if (p.dtype > DType::kF16) {
    return Status::unsupported(
        fmt::format("expected float64, float32, bfloat16 or float16, got {}", name_of(p.dtype)));
  }
  for (int64_t row = 0; row < p.rows; ++row) {
    const int64_t label = p.labels[row];
    if (label != p.ignore && (label < 0 || label >= p.cols)) {
      return Status::invalid(
          fmt::format("label of row {} is out of range; expected 0 to {} or {} (ignored), got {}", row,
                      p.cols - 1, p.ignore, label));
    }
  }
  return {};
}

// One order of addition whatever the threads; fp64, so that millions of rows lose nothing.
void total(const CrossEntropyForward& p) {
  double sum = 0, weight = 0;
  dispatch_floating(p.dtype, "cross_entropy", [&]<class T>() {
    const auto* likelihood = static_cast<const acc_t<T>*>(p.log_likelihood);
    for (int64_t row = 0; row < p.rows; ++row) {
      if (p.labels[row] == p.ignore) continue;
      sum -= static_cast<double>(likelihood[row]);
      weight += 1;
    }
  });
  *p.sum = sum;
  if (p.weight != nullptr) *p.weight = weight;
}

}  // namespace

std::span<const Implementation<CrossEntropyForward>> cross_entropy_forward_table() { return kForward; }
std::span<const Implementation<CrossEntropyBackward>> cross_entropy_backward_table() { return kBackward; }

Status cross_entropy_forward(const CrossEntropyForward& params, const ParallelFor& parallel_for) {
  if (Status checked = check(params); !checked.ok()) return checked;
  if (params.rows > 0 && params.sum != nullptr && params.log_likelihood == nullptr) {
    return Status::invalid("the sum needs log_likelihood; expected a buffer of one entry per row, got null");
  }
  if (Status done = run_first(cross_entropy_forward_table(), params, parallel_for); !done.ok()) return done;
  if (params.sum != nullptr) total(params);
  return {};
}

Status cross_entropy_backward(const CrossEntropyBackward& params, const ParallelFor& parallel_for) {
  if (Status checked = check(params); !checked.ok()) return checked;
  return run_first(cross_entropy_backward_table(), params, parallel_for);
}

}  // namespace axial::kernels
