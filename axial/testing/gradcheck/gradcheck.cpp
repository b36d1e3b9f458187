// SPDX-License-Identifier: Apache-2.0
// Central differences against autograd (gradcheck.h).
#include "axial/testing/gradcheck/gradcheck.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "axial/core/check/check.h"
#include "axial/core/rng/rng.h"

namespace axial::testing {
namespace {

Tensors leaves(const Tensors& inputs) {
  Tensors out;
  for (const at::Tensor& t : inputs) {
    out.push_back(t.defined() ? t.detach().requires_grad_(t.requires_grad()) : t);
  }
  return out;
}

double value(const TensorsFunction& f, const Tensors& inputs, const std::vector<bool>& counted) {
  const Tensors outputs = f(leaves(inputs));
  double sum = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!counted[i]) continue;
    const at::Tensor cotangent =
        random_normal(outputs[i].sizes(), at::kDouble, fmt::format("cotangent {}", i));
    sum += (outputs[i].detach() * cotangent).sum().item<double>();
  }
  return sum;
}

void compare(GradcheckReport& report, double& worst, int64_t input, const at::Tensor& analytic,
             const std::function<double(int64_t)>& numeric, const GradcheckOptions& options) {
  const double* a = analytic.const_data_ptr<double>();
  for (int64_t e = 0; e < analytic.numel(); ++e) {
    const double n = numeric(e);
    const double allowed = options.atol + options.rtol * std::max(std::abs(a[e]), std::abs(n));
    double excess = std::abs(a[e] - n) / allowed;
    if (std::isnan(excess)) excess = std::numeric_limits<double>::infinity();
    if (excess <= worst && report.element >= 0) continue;
    worst = excess;
    report.ok = excess <= 1;
    report.input = input;
    report.element = e;
    report.analytic = a[e];
    report.numeric = n;
  }
}

}  // namespace

at::Tensor random_normal(at::IntArrayRef shape, at::ScalarType dtype, std::string_view site) {
  const at::Tensor out = at::empty(shape, at::kDouble);
  const RngKey key = root_key(11).child(site);
  double* data = out.mutable_data_ptr<double>();
  for (int64_t i = 0; i < out.numel(); ++i) {
    data[i] = std::clamp(axial::random_normal(key, static_cast<uint64_t>(i)), -3.0, 3.0);
  }
  return out.to(dtype);
}

at::Tensor contract(const Tensors& outputs) {
  at::Tensor sum;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const at::Tensor& out = outputs[i];
    if (!out.defined() || !out.requires_grad()) continue;
    const at::Tensor cotangent =
        random_normal(out.sizes(), at::kDouble, fmt::format("cotangent {}", i)).to(out.scalar_type());
    const at::Tensor term =
        (out * cotangent).sum(out.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
    sum = sum.defined() ? sum + term : term;
  }
  AXIAL_CHECK(sum.defined(), "gradcheck", "no output needs a gradient; expected one, got {} outputs",
              outputs.size());
  return sum;
}

Tensors gradients(const TensorsFunction& f, const Tensors& inputs, bool create_graph) {
  Tensors wanted;
  for (const at::Tensor& t : inputs) {
    if (t.defined() && t.requires_grad()) wanted.push_back(t);
  }
  return torch::autograd::grad({contract(f(inputs))}, wanted, {}, /*retain_graph=*/create_graph, create_graph,
                               /*allow_unused=*/true);
}

GradcheckReport gradcheck(const TensorsFunction& f, const Tensors& inputs, const GradcheckOptions& options) {
  const Tensors at_point = leaves(inputs);
  std::vector<bool> counted;
  for (const at::Tensor& out : f(at_point)) counted.push_back(out.defined() && out.requires_grad());
  const Tensors analytic = gradients(f, at_point);

  GradcheckReport report;
  double worst = 0;
  size_t next = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].defined() || !inputs[i].requires_grad()) continue;
    AXIAL_CHECK(inputs[i].scalar_type() == at::kDouble, "gradcheck", "expected float64 inputs, got {}",
                c10::toString(inputs[i].scalar_type()));
    const at::Tensor gradient = analytic[next].defined() ? analytic[next].detach().contiguous()
                                                         : at::zeros_like(inputs[i]).contiguous();
    ++next;
    const at::Tensor base = inputs[i].detach();
    const auto numeric = [&](int64_t e) {
      Tensors moved = inputs;
      double values[2];
      for (const int side : {0, 1}) {
        at::Tensor t = base.clone(at::MemoryFormat::Contiguous);
        t.view({-1})[e] += (side == 0 ? options.step : -options.step);
        moved[i] = t.requires_grad_();
        values[side] = value(f, moved, counted);
      }
      return (values[0] - values[1]) / (2 * options.step);
    };
    compare(report, worst, static_cast<int64_t>(i), gradient, numeric, options);
  }
  report.text =
      fmt::format("worst at input {} element {}: autograd {:.9g}, differences {:.9g} ({:.2g} of tolerance)",
                  report.input, report.element, report.analytic, report.numeric, worst);
  return report;
}

GradcheckReport gradcheck(const TensorFunction& f, const Tensors& inputs, const GradcheckOptions& options) {
  return gradcheck([&f](const Tensors& t) { return Tensors{f(t)}; }, inputs, options);
}

GradcheckReport gradgradcheck(const TensorsFunction& f, const Tensors& inputs,
                              const GradcheckOptions& options) {
  return gradcheck(
      [&f](const Tensors& t) {
        Tensors defined;
        for (const at::Tensor& g : gradients(f, t, /*create_graph=*/true)) {
          if (g.defined()) defined.push_back(g);
        }
        return defined;
      },
      inputs, options);
}

}  // namespace axial::testing
