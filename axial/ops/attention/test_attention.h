// SPDX-License-Identifier: Apache-2.0
// For the tests of attention: softmax in plain ATen, and the text of a refusal.
#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <functional>

#include "axial/core/check/check.h"
#include "axial/ops/attention/attention.h"

namespace axial::ops::test {

using at::Tensor;

// Queries and keys swapped with heads; keys and values once per query head.
inline Tensor plain(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& bias1,
                    const Tensor& bias2, const Tensor& hidden) {
  const int64_t group = q.size(-2) / k.size(-2);
  const Tensor keys = k.repeat_interleave(group, -2).transpose(-2, -3),
               values = v.repeat_interleave(group, -2);
  Tensor s =
      at::matmul(q.transpose(-2, -3), keys.transpose(-1, -2)) / std::sqrt(static_cast<double>(q.size(-1)));
  if (bias1.defined()) s = s + bias1;
  if (bias2.defined()) s = s + bias2;
  if (hidden.defined()) s = s.masked_fill(hidden, -INFINITY);
  return at::matmul(at::softmax(s, -1), values.transpose(-2, -3)).transpose(-2, -3);
}

using Shape = std::vector<int64_t>;

inline OptionalTensor optional(const Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }

inline std::string refusal(const std::function<void()>& body) {
  try {
    body();
  } catch (const c10::ValueError& e) {
    return e.what_without_backtrace();
  }
  return "not refused";
}

}  // namespace axial::ops::test
