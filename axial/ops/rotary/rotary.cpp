// SPDX-License-Identifier: Apache-2.0
// rotary over kernels/rotary: one dispatcher op that turns either way, and its autograd. The backward is
// the op itself with the other sense, so derivatives of any order are right.
//
//   axial::rotary   CPU, Meta, Autograd
#include "axial/ops/rotary/rotary.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "axial/kernels/rotary/rotary.h"
#include "axial/ops/common/kernel_call.h"

namespace axial::ops {
namespace {

constexpr std::string_view kOp = "rotary";

void check(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& inv_freq) {
  AXIAL_OP_CHECK(x.dim() >= 3, kOp, "x needs at least 3 dims; expected [.., T, H, D], got {}", shape_text(x));
  AXIAL_OP_CHECK(x.is_floating_point(), kOp, "x has no floating dtype; got {}",
                 c10::toString(x.scalar_type()));
  AXIAL_OP_CHECK(positions.scalar_type() == at::kLong, kOp, "positions must be int64; got {}",
                 c10::toString(positions.scalar_type()));
  AXIAL_OP_CHECK(positions.sym_sizes() == x.sym_sizes().slice(0, static_cast<size_t>(x.dim() - 2)), kOp,
                 "positions do not match x {}; expected its leading dims [.., T], got {}", shape_text(x),
                 shape_text(positions));
  AXIAL_OP_CHECK(inv_freq.dim() == 1 && inv_freq.scalar_type() == at::kDouble, kOp,
                 "inv_freq must be [R / 2] float64; got {} {}", shape_text(inv_freq),
                 c10::toString(inv_freq.scalar_type()));
  AXIAL_OP_CHECK(inv_freq.sym_size(0) * 2 <= x.sym_size(-1), kOp,
                 "more entries to rotate than the head has; expected 2 * len(inv_freq) <= {}, got 2 * {}",
                 c10::str(x.sym_size(-1)), c10::str(inv_freq.sym_size(0)));
}

// x as [tokens, H, D] with heads contiguous: a view where its strides allow, else a copy.
at::Tensor as_tokens(const at::Tensor& x) {
  const at::Tensor rows = x.size(-1) <= 1 || x.stride(-1) == 1 ? x : x.contiguous();
  return rows.dim() == 3 ? rows : rows.flatten(0, rows.dim() - 3);
}

at::Tensor rotate(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& inv_freq,
                  bool inverse) {
  check(x, positions, inv_freq);
  const at::Tensor y = at::empty_symint(x.sym_sizes(), x.options());
  if (x.is_meta()) return y;

  const at::Tensor tokens = as_tokens(x);
  const at::Tensor places = positions.contiguous();
  const at::Tensor frequencies = inv_freq.contiguous();
  const kernels::Rotary params{.dtype = dtype_of(x, kOp),
                               .tokens = tokens.size(0),
                               .heads = tokens.size(1),
                               .head_dim = tokens.size(2),
                               .pairs = frequencies.size(0),
                               .x = tokens.const_data_ptr(),
                               .x_token_stride = tokens.stride(0),
                               .x_head_stride = tokens.stride(1),
                               .y = y.mutable_data_ptr(),
                               .y_token_stride = tokens.size(1) * tokens.size(2),
                               .y_head_stride = tokens.size(2),
                               .positions = places.const_data_ptr<int64_t>(),
                               .inv_freq = frequencies.const_data_ptr<double>(),
                               .inverse = inverse};
  const Status status = kernels::rotary(params, torch_parallel_for());
  AXIAL_OP_CHECK(status.code != StatusCode::kInvalid, kOp, "{}", status.text);
  throw_if_failed(status, kOp);
  return y;
}

at::Tensor call(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& inv_freq, bool inverse) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("axial::rotary", "").typed<decltype(rotate)>();
  return op.call(x, positions, inv_freq, inverse);
}

struct RotaryFunction : torch::autograd::Function<RotaryFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x,
                            const at::Tensor& positions, const at::Tensor& inv_freq, bool inverse) {
    AXIAL_OP_CHECK(!inv_freq.requires_grad(), kOp,
                   "inv_freq takes no gradient; expected one that does not require it");
    const at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({positions, inv_freq});
    ctx->saved_data["inverse"] = inverse;
    return call(x, positions, inv_freq, inverse);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const bool inverse = ctx->saved_data["inverse"].toBool();
    return {call(grads[0], saved[0], saved[1], !inverse), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

at::Tensor with_gradient(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& inv_freq,
                         bool inverse) {
  return RotaryFunction::apply(x, positions, inv_freq, inverse);
}

}  // namespace

at::Tensor rotary(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& inv_freq) {
  return call(x, positions, inv_freq, false);
}

void register_rotary(torch::Library& registry) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  registry.def("rotary(Tensor x, Tensor positions, Tensor inv_freq, bool inverse=False) -> Tensor", tags);
  for (const c10::DispatchKey key : {c10::DispatchKey::CPU, c10::DispatchKey::Meta}) {
    registry.impl("rotary", torch::dispatch(key, TORCH_FN(rotate)));
  }
  registry.impl("rotary", torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(with_gradient)));
}

}  // namespace axial::ops
