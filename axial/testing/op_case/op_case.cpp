// SPDX-License-Identifier: Apache-2.0
// The driver of op_case.h.
#include "axial/testing/op_case/op_case.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

#include "axial/core/check/check.h"
#include "axial/ops/common/kernel_call.h"
#include "axial/testing/tolerance/tolerance.h"

namespace axial::testing {
namespace {

bool contains(const std::vector<size_t>& set, size_t i) {
  return std::find(set.begin(), set.end(), i) != set.end();
}

/// Outputs, then gradients of each input that takes one, as one list.
struct Results {
  Tensors tensors;
  size_t num_outputs = 0;
  std::string name(size_t i) const {
    return i < num_outputs ? fmt::format("output {}", i) : fmt::format("gradient {}", i - num_outputs);
  }
};

class Driver {
 public:
  explicit Driver(const OpCase& test) : test_(test) {}

  std::vector<std::string> run() {
    for (const OpInputs& inputs : test_.inputs) {
      label_ = inputs.label;
      guarded("values", [&] { values(inputs); });
      guarded("gradcheck", [&] { differences(inputs); });
      guarded("order", [&] { order(inputs); });
      guarded("strides", [&] { strides(inputs); });
      guarded("threads", [&] { threads(inputs); });
      if (test_.meta) guarded("meta", [&] { meta(inputs); });
    }
    return std::move(found_);
  }

 private:
  template <class Body>
  void guarded(std::string_view check, const Body& body) {
    check_ = check;
    try {
      body();
    } catch (const std::exception& e) {
      found(e.what());
    }
  }

  void found(std::string_view text) {
    found_.push_back(fmt::format("{} [{}] {}: {}", test_.name, label_, check_, text));
  }

  Tensors cast(const OpInputs& inputs, at::ScalarType dtype) const {
    Tensors out = inputs.tensors;
    for (size_t i = 0; i < out.size(); ++i) {
      if (!out[i].defined() || !out[i].is_floating_point()) continue;
      if (!contains(test_.keep_dtype, i)) out[i] = out[i].detach().to(dtype, false, /*copy=*/true);
      if (!contains(test_.constants, i)) out[i].requires_grad_();
    }
    return out;
  }

  Tensors recast(const Tensors& inputs, at::ScalarType dtype) const {
    return cast(OpInputs{"", inputs}, dtype);
  }

  // Op and reference meet the same cotangents: contract() draws them by the output's position.
  Results results(const TensorsFunction& f, const Tensors& inputs) const {
    Results out;
    Tensors graph_outputs;
    Tensors gradient = gradients(
        [&](const Tensors& t) {
          graph_outputs = f(t);
          return graph_outputs;
        },
        inputs);
    for (const at::Tensor& t : graph_outputs) out.tensors.push_back(t.detach());
    out.num_outputs = graph_outputs.size();
    for (const at::Tensor& g : gradient) out.tensors.push_back(g);
    return out;
  }

  void values(const OpInputs& inputs) {
    for (const at::ScalarType dtype : test_.dtypes) {
      const Tensors typed = cast(inputs, dtype);
      const Results actual = results(test_.op, typed);
      const Results truth = results(test_.reference, recast(typed, at::kDouble));
      const Results plain =
          dtype == at::kDouble ? truth : results(test_.reference, recast(typed, at::kFloat));
      if (actual.tensors.size() != truth.tensors.size()) {
        found(fmt::format("{} outputs and gradients, reference has {}", actual.tensors.size(),
                          truth.tensors.size()));
        continue;
      }
      for (size_t i = 0; i < truth.tensors.size(); ++i) {
        const at::Tensor& a = actual.tensors[i];
        if (a.defined() != truth.tensors[i].defined()) {
          found(fmt::format("{} {}: defined {}, reference {}", c10::toString(dtype), actual.name(i),
                            a.defined(), truth.tensors[i].defined()));
          continue;
        }
        if (!a.defined()) continue;
        const bool exact = dtype == at::kDouble;  // the reference itself rounds: its error is not zero
        const Verdict v =
            within_twice(a, plain.tensors[i].to(a.scalar_type()), truth.tensors[i],
                         exact ? std::max(64.0, test_.roundings) : test_.roundings, test_.terms);
        if (!v.ok) found(fmt::format("{} {}: {}", c10::toString(dtype), actual.name(i), v.text));
      }
    }
  }

  void differences(const OpInputs& inputs) {
    const GradcheckReport report =
        axial::testing::gradcheck(test_.op, cast(inputs, at::kDouble), test_.gradcheck);
    if (!report.ok) found(report.text);
  }

  void order(const OpInputs& inputs) {
    const Tensors typed = cast(inputs, at::kDouble);
    if (test_.second_order) {
      const GradcheckReport report = gradgradcheck(test_.op, typed, test_.gradcheck);
      if (!report.ok) found("second order: " + report.text);
      return;
    }
    try {
      gradients(test_.op, typed, /*create_graph=*/true);
    } catch (const std::exception& e) {
      if (std::string_view(e.what()).find("first order only") == std::string_view::npos) throw;
      return;
    }
    found("of first order only, but create_graph was not refused");
  }

  void same(const Results& actual, const Results& expected, std::string_view what) {
    for (size_t i = 0; i < expected.tensors.size(); ++i) {
      if (!expected.tensors[i].defined()) continue;
      const Verdict v = same_bits(actual.tensors[i], expected.tensors[i]);
      if (!v.ok) found(fmt::format("{}, {}: {}", what, actual.name(i), v.text));
    }
  }

  void strides(const OpInputs& inputs) {
    const auto padded = [](const at::Tensor& t) {
      std::vector<int64_t> shape = t.sizes().vec();
      shape.back() += 3;
      return at::zeros(shape, t.options()).narrow(-1, 1, t.size(-1)).copy_(t);
    };
    const auto transposed = [](const at::Tensor& t) {
      return t.transpose(0, -1).clone(at::MemoryFormat::Contiguous).transpose(0, -1);
    };
    const Tensors plain = cast(inputs, at::kFloat);
    const Results expected = results(test_.op, plain);
    const auto check = [&](std::string_view what,
                           const std::function<at::Tensor(const at::Tensor&)>& change) {
      Tensors changed = plain;
      for (size_t i = 0; i < plain.size(); ++i) {
        if (!plain[i].defined() || plain[i].dim() == 0 || contains(test_.host_inputs, i)) continue;
        changed[i] = change(plain[i].detach()).detach().requires_grad_(plain[i].requires_grad());
      }
      same(results(test_.op, changed), expected, what);
    };
    check("padded rows", padded);
    if (test_.strided) check("transposed storage", transposed);
  }

  void threads(const OpInputs& inputs) {
    const int before = at::get_num_threads();
    const Tensors typed = cast(inputs, at::kFloat);
    at::set_num_threads(1);
    const Results expected = results(test_.op, typed);
    for (const int count : {2, 3, 5}) {
      at::set_num_threads(count);
      same(results(test_.op, typed), expected, fmt::format("{} threads", count));
    }
    at::set_num_threads(before);
  }

  void meta(const OpInputs& inputs) {
    const Tensors typed = cast(inputs, at::kFloat);
    const Results expected = results(test_.op, typed);
    Tensors bare = typed;
    for (size_t i = 0; i < bare.size(); ++i) {
      if (!bare[i].defined() || contains(test_.host_inputs, i)) continue;
      bare[i] = at::empty(typed[i].sizes(), typed[i].options().device(at::kMeta));
      bare[i].requires_grad_(typed[i].requires_grad());
    }
    const Results actual = meta_results(bare);
    for (size_t i = 0; i < expected.tensors.size(); ++i) {
      const at::Tensor& e = expected.tensors[i];
      const at::Tensor& a = actual.tensors[i];
      if (!e.defined()) continue;
      if (!a.is_meta() || a.sizes() != e.sizes() || a.scalar_type() != e.scalar_type()) {
        found(fmt::format("{}: {} {}, on the CPU {} {}", actual.name(i), c10::toString(a.scalar_type()),
                          ops::shape_text(a), c10::toString(e.scalar_type()), ops::shape_text(e)));
      }
    }
  }

  Results meta_results(const Tensors& inputs) const {
    const Tensors outputs = test_.op(inputs);
    Tensors roots, cotangents, wanted;
    for (const at::Tensor& t : outputs) {
      if (!t.requires_grad()) continue;
      roots.push_back(t);
      cotangents.push_back(at::empty(t.sizes(), t.options()));
    }
    for (const at::Tensor& t : inputs) {
      if (t.defined() && t.requires_grad()) wanted.push_back(t);
    }
    Results out{outputs, outputs.size()};
    for (const at::Tensor& g : torch::autograd::grad(roots, wanted, cotangents, false, false, true)) {
      out.tensors.push_back(g);
    }
    return out;
  }

  const OpCase& test_;
  std::string label_;
  std::string_view check_;
  std::vector<std::string> found_;
};

}  // namespace

std::vector<std::string> failures(const OpCase& test) { return Driver(test).run(); }

}  // namespace axial::testing
