// SPDX-License-Identifier: Apache-2.0
// Dispatcher op, checks, Meta kernel and autograd of dropout. The backward is the same op on the gradient,
// so derivatives of any order are right.
#include "axial/ops/dropout/dropout.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <bit>

#include "axial/kernels/dropout/dropout.h"
#include "axial/ops/common/kernel_call.h"

namespace axial::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kOp = "dropout";

void check(const Tensor& x, double p, const Tensor& sample_ids, const Tensor& positions) {
  AXIAL_OP_CHECK(x.dim() == 3, kOp, "x needs 3 dims; expected [B, T, C], got {}", shape_text(x));
  AXIAL_OP_CHECK(p >= 0 && p <= 1, kOp, "probability; expected 0 <= p <= 1, got {}", p);
  AXIAL_OP_CHECK(sample_ids.dim() == 1 && sample_ids.sym_size(0) == x.sym_size(0) &&
                     sample_ids.scalar_type() == at::kLong,
                 kOp, "sample_ids must be int64 with one entry per sample of x {}; got {}", shape_text(x),
                 shape_text(sample_ids));
  AXIAL_OP_CHECK(
      positions.dim() == 1 && positions.sym_size(0) == x.sym_size(1) && positions.scalar_type() == at::kLong,
      kOp, "positions must be int64 with one entry per position of x {}; got {}", shape_text(x),
      shape_text(positions));
}

Tensor dropout_meta(const Tensor& x, double p, int64_t, const Tensor& sample_ids, const Tensor& positions) {
  check(x, p, sample_ids, positions);
  return at::empty_symint(x.sym_sizes(), x.options());
}

Tensor dropout_cpu(const Tensor& x, double p, int64_t key, const Tensor& sample_ids,
                   const Tensor& positions) {
  Tensor y = dropout_meta(x, p, key, sample_ids, positions);
  const Tensor input = x.stride(2) == 1 || x.size(2) <= 1 ? x : x.contiguous();
  const Tensor ids = sample_ids.contiguous(), places = positions.contiguous();
  kernels::DropoutParams params;
  params.dtype = dtype_of(input, kOp);
  params.batch = input.size(0);
  params.tokens = input.size(1);
  params.channels = input.size(2);
  params.p = p;
  params.key = RngKey{std::bit_cast<uint64_t>(key)};
  params.sample_ids = ids.const_data_ptr<int64_t>();
  params.positions = places.const_data_ptr<int64_t>();
  params.x = input.const_data_ptr();
  params.x_batch_stride = input.stride(0);
  params.x_token_stride = input.stride(1);
  params.y = y.mutable_data_ptr();
  throw_if_failed(kernels::dropout(params, torch_parallel_for()), kOp);
  return y;
}

Tensor call(const Tensor& x, double p, int64_t key, const Tensor& sample_ids, const Tensor& positions) {
  static auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("axial::dropout", "").typed<decltype(dropout_cpu)>();
  return op.call(x, p, key, sample_ids, positions);
}

struct Dropout : torch::autograd::Function<Dropout> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, double p, int64_t key,
                        const Tensor& sample_ids, const Tensor& positions) {
    const at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({sample_ids, positions});
    ctx->saved_data["p"] = p;
    ctx->saved_data["key"] = key;
    return call(x, p, key, sample_ids, positions);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    return {
        call(grads[0], ctx->saved_data["p"].toDouble(), ctx->saved_data["key"].toInt(), saved[0], saved[1]),
        Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Tensor dropout_autograd(const Tensor& x, double p, int64_t key, const Tensor& sample_ids,
                        const Tensor& positions) {
  return Dropout::apply(x, p, key, sample_ids, positions);
}

}  // namespace

Tensor dropout(const Tensor& x, double p, RngKey key, const Tensor& sample_ids, const Tensor& positions) {
  return call(x, p, std::bit_cast<int64_t>(key.value), sample_ids, positions);
}

void register_dropout(torch::Library& registry) {
  registry.def("dropout(Tensor x, float p, int key, Tensor sample_ids, Tensor positions) -> Tensor");
  registry.impl("dropout", torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(dropout_cpu)));
  registry.impl("dropout", torch::dispatch(c10::DispatchKey::Meta, TORCH_FN(dropout_meta)));
  registry.impl("dropout", torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(dropout_autograd)));
}

}  // namespace axial::ops
