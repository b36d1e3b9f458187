// SPDX-License-Identifier: Apache-2.0
// Comparisons of tensors for tests (tolerance.h), all in fp64 on the CPU.
#include "axial/testing/tolerance/tolerance.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstring>

#include "axial/core/check/check.h"
#include "axial/ops/common/kernel_call.h"

namespace axial::testing {
namespace {

at::Tensor wide(const at::Tensor& t) { return t.detach().to(at::kCPU, at::kDouble).contiguous(); }

Verdict shapes_differ(const at::Tensor& actual, const at::Tensor& expected) {
  return {false, fmt::format("shape {}, expected {}", ops::shape_text(actual), ops::shape_text(expected))};
}

}  // namespace

double rounding(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return 0x1p-53;
    case at::kFloat:
      return 0x1p-24;
    case at::kBFloat16:
      return 0x1p-8;
    case at::kHalf:
      return 0x1p-11;
    default:
      return 0;
  }
}

double relative_l2(const at::Tensor& actual, const at::Tensor& truth) {
  const double size = wide(truth).norm().item<double>();
  const double error = (wide(actual) - wide(truth)).norm().item<double>();
  return size > 0 ? error / size : error;
}

double cosine(const at::Tensor& actual, const at::Tensor& truth) {
  const at::Tensor a = wide(actual).flatten();
  const at::Tensor b = wide(truth).flatten();
  const double norms = a.norm().item<double>() * b.norm().item<double>();
  if (norms == 0) return a.equal(b) ? 1 : 0;
  return a.dot(b).item<double>() / norms;
}

Verdict within_twice(const at::Tensor& actual, const at::Tensor& plain, const at::Tensor& truth,
                     double roundings, double terms) {
  if (!actual.sizes().equals(truth.sizes())) return shapes_differ(actual, truth);
  const at::Tensor a = wide(actual), p = wide(plain), t = wide(truth);
  const double* av = a.const_data_ptr<double>();
  const double* pv = p.const_data_ptr<double>();
  const double* tv = t.const_data_ptr<double>();
  double error = 0, allowed = 0, largest = 0;
  int64_t worst = 0;
  for (int64_t i = 0; i < t.numel(); ++i) {
    if (!std::isfinite(tv[i])) {
      const bool same = std::isnan(tv[i]) ? std::isnan(av[i]) : av[i] == tv[i];
      if (!same) return {false, fmt::format("element {} is {}, expected {}", i, av[i], tv[i])};
      continue;
    }
    if (!std::isfinite(av[i])) return {false, fmt::format("element {} is {}, expected {}", i, av[i], tv[i])};
    if (std::abs(av[i] - tv[i]) > error) worst = i;
    error = std::max(error, std::abs(av[i] - tv[i]));
    if (std::isfinite(pv[i])) allowed = std::max(allowed, 2 * std::abs(pv[i] - tv[i]));
    largest = std::max(largest, std::abs(tv[i]));
  }
  allowed += roundings * rounding(actual.scalar_type()) * std::max(largest, terms);
  if (error <= allowed) return {};
  return {false, fmt::format("error {:.3g} above {:.3g} at element {}: {:.9g}, expected {:.9g}", error,
                             allowed, worst, av[worst], tv[worst])};
}

Verdict close(const at::Tensor& actual, const at::Tensor& truth, double rtol, double atol) {
  if (!actual.sizes().equals(truth.sizes())) return shapes_differ(actual, truth);
  const at::Tensor a = wide(actual), t = wide(truth);
  const double* av = a.const_data_ptr<double>();
  const double* tv = t.const_data_ptr<double>();
  double most = 0;
  int64_t worst = -1;
  for (int64_t i = 0; i < t.numel(); ++i) {
    if (av[i] == tv[i] || (std::isnan(av[i]) && std::isnan(tv[i]))) continue;
    const double excess = std::abs(av[i] - tv[i]) / (atol + rtol * std::abs(tv[i]));
    if (!(excess <= 1) && (worst < 0 || !(excess <= most))) {
      most = excess;
      worst = i;
    }
  }
  if (worst < 0) return {};
  return {false, fmt::format("element {} is {:.9g}, expected {:.9g}; {:.3g} times the tolerance", worst,
                             av[worst], tv[worst], most)};
}

Verdict same_bits(const at::Tensor& actual, const at::Tensor& expected) {
  if (!actual.sizes().equals(expected.sizes())) return shapes_differ(actual, expected);
  if (actual.scalar_type() != expected.scalar_type()) {
    return {false, fmt::format("dtype {}, expected {}", c10::toString(actual.scalar_type()),
                               c10::toString(expected.scalar_type()))};
  }
  const at::Tensor a = actual.detach().cpu().contiguous(), e = expected.detach().cpu().contiguous();
  if (a.numel() == 0 || std::memcmp(a.const_data_ptr(), e.const_data_ptr(), a.nbytes()) == 0) return {};
  return {false, fmt::format("bits differ, relative L2 {:.3g}", relative_l2(actual, expected))};
}

}  // namespace axial::testing
