// SPDX-License-Identifier: Apache-2.0
// axial::attention and evoformer_attention against softmax in plain ATen, in every shape of the field.
#include "axial/ops/attention/attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "axial/ops/attention/test_attention.h"
#include "axial/ops/common/memory_count.h"
#include "axial/testing/op_case/op_case.h"

namespace axial::ops {
namespace {

using at::Tensor;
using test::optional;
using test::plain;
using test::refusal;
using test::Shape;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::OpInputs;
using testing::random_normal;
using testing::Tensors;

// q, k, v and biases; an empty shape leaves the bias out.
OpInputs inputs(const std::string& label, const Shape& q, const Shape& k, const Shape& bias1 = {},
                const Shape& bias2 = {}) {
  const auto bias = [](const Shape& shape, const char* name) {
    return shape.empty() ? Tensor() : random_normal(shape, at::kDouble, name);
  };
  return {label,
          {random_normal(q, at::kDouble, "q"), random_normal(k, at::kDouble, "k"),
           random_normal(k, at::kDouble, "v"), bias(bias1, "bias1"), bias(bias2, "bias2")}};
}

TEST(AttentionOp, HoldsWhatEveryOpMustHoldWithBiases) {
  const testing::OpCase test{
      .name = "evoformer_attention",
      .inputs = {inputs("msa row", {1, 2, 5, 2, 4}, {1, 2, 5, 2, 4}, {1, 2, 1, 1, 5}, {1, 1, 2, 5, 5}),
                 inputs("msa column", {1, 3, 4, 2, 3}, {1, 3, 4, 2, 3}, {1, 3, 1, 1, 4}),
                 inputs("pair bias alone", {2, 6, 1, 8}, {2, 6, 1, 8}, {}, {2, 1, 6, 6}),
                 inputs("broadcast over the batch", {2, 2, 3, 2, 2}, {2, 2, 4, 2, 2}, {1, 2, 1, 1, 4},
                        {2, 3, 4}),
                 inputs("whole biases", {2, 3, 2, 2}, {2, 4, 2, 2}, {2, 2, 3, 4}, {2, 2, 3, 4}),
                 inputs("of a query, of all", {3, 2, 2}, {4, 2, 2}, {2, 3, 1}, {1}),
                 inputs("grouped heads", {2, 3, 4, 3}, {2, 5, 2, 3}, {4, 1, 5}),
                 inputs("no bias, one key", {3, 1, 5}, {1, 1, 5}),
                 inputs("seven leading dims", {1, 2, 1, 2, 1, 1, 2, 3, 1, 2}, {1, 2, 1, 2, 1, 1, 2, 2, 1, 2},
                        {2, 1, 3, 2}),
                 inputs("no queries", {2, 0, 2, 3}, {2, 4, 2, 3}, {1, 4}),
                 inputs("no rows", {0, 3, 2, 3}, {0, 4, 2, 3})},
      .op =
          [](const Tensors& t) {
            return Tensors{evoformer_attention(t[0], t[1], t[2], optional(t[3]), optional(t[4]))};
          },
      .reference = [](const Tensors& t) { return Tensors{plain(t[0], t[1], t[2], t[3], t[4], {})}; },
      .terms = 1};
  for (const std::string& failure : testing::failures(test)) ADD_FAILURE() << failure;
}

TEST(AttentionOp, AQueryThatSeesNothingGivesZero) {
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const bool infinite : {true, false}) {
      Tensors t;
      for (const char* name : {"q", "k", "v"})
        t.push_back(random_normal({2, 70, 2, 8}, type, name).requires_grad_());
      Tensor mask = at::zeros({2, 1, 70, 70}, at::TensorOptions().dtype(type));
      const double none = type == at::kDouble     ? std::numeric_limits<double>::lowest()
                          : type == at::kFloat    ? static_cast<double>(std::numeric_limits<float>::lowest())
                          : type == at::kBFloat16 ? -0x1.fep127
                                                  : -65504.0;
      mask.select(2, 3).fill_(infinite ? -INFINITY : none);
      mask.narrow(3, 0, 66).fill_(infinite ? -INFINITY : none);  // the first blocks of every row
      mask.requires_grad_();
      const Tensor out = attention(t[0], t[1], t[2], mask, std::nullopt);
      EXPECT_TRUE(at::isfinite(out).all().item<bool>());
      EXPECT_TRUE(at::equal(out.select(1, 3), at::zeros_like(out.select(1, 3))));
      EXPECT_GT(out.select(1, 4).abs().max().item<double>(), 0);
      const auto grads = torch::autograd::grad({out}, {t[0], t[1], t[2], mask},
                                               {at::ones({1}, out.options()).expand(out.sizes())});
      for (const Tensor& g : grads) EXPECT_TRUE(at::isfinite(g).all().item<bool>());
      EXPECT_EQ(grads[0].select(1, 3).abs().max().item<double>(), 0);
      EXPECT_EQ(grads[2].narrow(1, 0, 66).abs().max().item<double>(), 0);
      EXPECT_EQ(grads[3].select(2, 3).abs().max().item<double>(), 0);
    }
  }
}

// One number of a row is spoiled: the row must say so, wherever torch's softmax would, and no other.
// Width 32 goes to matrix tiles where a CPU has them, of bfloat16.
class AttentionOpNotFinite : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Width, AttentionOpNotFinite, ::testing::Values(8, 32));

TEST_P(AttentionOpNotFinite, ARowThatIsNoNumberSaysSo) {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const std::string what : {"q", "k", "bias", "infinite bias", "overflow"}) {
      Tensors t;
      for (const char* name : {"q", "k", "v"}) t.push_back(random_normal({70, 1, GetParam()}, type, name));
      t.push_back(at::zeros({70, 70}, type));
      t[3].select(0, 2).fill_(-infinity);  // query 2 sees nothing
      if (what == "q") t[0].select(0, 1).fill_(nan);
      if (what == "k") t[1].select(0, 66).fill_(nan);
      if (what == "bias") t[3][1][66].fill_(nan);
      if (what == "infinite bias") t[3][1][66].fill_(infinity);
      if (what == "overflow") {  // of the product q . k, in fp32
        if (type == at::kHalf) continue;
        t[0].select(0, 1).fill_(type == at::kDouble ? 1e308 : 3e38);
        t[1].select(0, 66).fill_(1e5);
      }
      const auto spoiled = [&](const Tensor& x) { return at::isnan(x).flatten(1).any(-1); };
      // Torch's own 16-bit products may spoil the rows beside one that is no number (on AMX they do).
      Tensors wide;
      for (const Tensor& x : t) wide.push_back(type == at::kDouble ? x : x.to(at::kFloat));
      Tensor expected = spoiled(plain(wide[0], wide[1], wide[2], wide[3], {}, {}));
      // Minus infinity hides a key, whatever it holds; torch's softmax of such a row is no number either.
      if (what != "k") expected[2].fill_(false);
      for (const Tensor& x : t) x.requires_grad_();
      const Tensor out = attention(t[0], t[1], t[2], t[3], std::nullopt);
      EXPECT_TRUE(at::equal(spoiled(out), expected)) << type << " " << what;
      const auto grads = torch::autograd::grad({out}, t, {at::ones_like(out)});
      EXPECT_TRUE(at::isnan(grads[0][1]).all().item<bool>()) << type << " " << what;
      if (what != "k") {
        EXPECT_EQ(grads[0][2].abs().max().item<double>(), 0) << type << " " << what;
      }
      EXPECT_TRUE(at::isnan(grads[3][1]).any().item<bool>()) << type << " " << what;
      const at::NoGradGuard no_grad;
      const Tensor few = attention(t[0].narrow(0, 0, 3), t[1], t[2], t[3].narrow(0, 0, 3), std::nullopt);
      EXPECT_TRUE(at::equal(spoiled(few), expected.narrow(0, 0, 3)))
          << type << " " << what << ", few queries";
      if (what != "k") {
        EXPECT_EQ(few[2].abs().max().item<double>(), 0);
      }
    }
  }
}

TEST(AttentionOp, BadInputIsNamedWithItsShape) {
  const Tensor q = at::zeros({2, 3, 5, 4, 8}), wrong = at::zeros({2, 3, 5, 4, 7});
  const auto biased = [&](const Tensor& bias, at::ScalarType type = at::kFloat) {
    return refusal([&] { evoformer_attention(q.to(type), q.to(type), q.to(type), bias, std::nullopt); });
  };
  EXPECT_THAT(refusal([&] {
                evoformer_attention(at::zeros({2, 3}), q, q, {}, {});
              }),
              AllOf(HasSubstr("q; expected [.., queries, heads, width]"), HasSubstr("[2, 3]")));
  EXPECT_THAT(refusal([&] { evoformer_attention(q, wrong, q, {}, {}); }),
              HasSubstr("k does not fit q [2, 3, 5, 4, 8]"));
  EXPECT_THAT(refusal([&] { evoformer_attention(q, q, q.narrow(-3, 0, 4), {}, {}); }),
              HasSubstr("k and v differ"));
  EXPECT_THAT(refusal([&] { evoformer_attention(q, q.to(at::kHalf), q, {}, {}); }),
              HasSubstr("expected Float for k"));
  EXPECT_THAT(refusal([&] { evoformer_attention(q, q.to(at::kMeta), q, {}, {}); }),
              HasSubstr("expected cpu for k"));
  EXPECT_THAT(biased(at::zeros({2, 3, 1, 5, 1, 5})), HasSubstr("bias1; expected a shape that broadcasts"));
  // The published tutorial's column attention transposes this one.
  EXPECT_THAT(biased(at::zeros({2, 5, 1, 1, 3})),
              AllOf(HasSubstr("[2, 3, 4, 5, 5]"), HasSubstr("[2, 5, 1, 1, 3]")));
  EXPECT_THAT(biased(at::zeros({5}, at::kDouble)), HasSubstr("expected dtype Float"));
  EXPECT_THAT(biased(at::zeros({5}, at::kInt)), HasSubstr("expected dtype Float"));
  EXPECT_EQ(biased(at::zeros({5}), at::kHalf), "not refused");
  EXPECT_THAT(refusal([&] { evoformer_attention(q, q, q, {}, {}, NAN); }),
              HasSubstr("scale; expected a number"));
  const Tensor empty = at::zeros({2, 5, 4, 0});
  EXPECT_THAT(refusal([&] { evoformer_attention(empty, empty, empty, {}, {}); }),
              HasSubstr("width; expected at least 1"));
  EXPECT_THAT(refusal([&] { evoformer_attention(q, q.narrow(-2, 0, 3), q.narrow(-2, 0, 3), {}, {}); }),
              HasSubstr("4 query and 3 key/value heads"));
  AttentionPattern both;
  both.causal = true;
  both.key_end = at::zeros({5}, at::kLong);
  EXPECT_THAT(refusal([&] { attention(q, q, q, {}, {}, both); }), HasSubstr("got both"));
  AttentionPattern blocks;
  blocks.mask_rows = at::zeros({2}, at::kLong);
  EXPECT_THAT(refusal([&] { attention(q, q, q, {}, {}, blocks); }), HasSubstr("got one of them"));
  blocks.mask_columns = at::tensor(std::vector<int64_t>{7}, at::kLong);
  blocks.mask_rows = at::tensor(std::vector<int64_t>{0, 1}, at::kLong);
  EXPECT_THAT(refusal([&] { attention(q, q, q, {}, {}, blocks); }),
              HasSubstr("expected rising blocks below 1"));
}

// B * N beyond what a launch grid of 16 bits counts.
TEST(AttentionOp, ManyRows) {
  const Tensor q = random_normal({66000, 2, 1, 4}, at::kFloat, "q");
  const Tensor bias = random_normal({1, 2, 2}, at::kFloat, "bias").requires_grad_();
  const Tensor out = attention(q, q, q, bias, std::nullopt);
  const Tensor expected = plain(q, q, q, bias, {}, {});
  EXPECT_LE((out - expected).abs().max().item<double>(), 1e-5);
  const Tensor ours = torch::autograd::grad({out.sum()}, {bias})[0];
  const Tensor wide = q.to(at::kDouble), wide_bias = bias.detach().to(at::kDouble).requires_grad_();
  const Tensor exact =
      torch::autograd::grad({plain(wide, wide, wide, wide_bias, {}, {}).sum()}, {wide_bias})[0];
  const Tensor theirs = torch::autograd::grad({expected.sum()}, {bias})[0];
  const double plain_error = (theirs - exact).abs().max().item<double>();
  EXPECT_LE((ours - exact).abs().max().item<double>(),
            2 * plain_error + 0x1p-23 * exact.abs().max().item<double>());
}

// AlphaFold's extra MSA at its full size, forward and every gradient: the logits would be 24 GB.
TEST(AttentionOp, MemoryIsThatOfTheResults) {
  MemoryCount memory;
  {
    constexpr int64_t N = 5120, L = 384, H = 8, D = 8, kFloat = 4;
    const auto options = at::TensorOptions(at::kMeta).dtype(at::kFloat);
    const Tensor q = at::empty({1, N, L, H, D}, options).requires_grad_();
    const Tensor mask = at::empty({1, N, 1, 1, L}, options).requires_grad_();
    const Tensor pair = at::empty({1, 1, H, L, L}, options).requires_grad_();
    const int64_t tensor = N * L * H * D * kFloat, statistics = 2 * N * L * H * kFloat,
                  inputs = memory.live();
    const int64_t threads = at::get_num_threads() * (int64_t{2} << 20);
    {
      const at::NoGradGuard no_grad;
      const Tensor out = attention(q, q, q, mask, pair);
      EXPECT_EQ(memory.live() - inputs, tensor);
      EXPECT_LE(memory.peak() - inputs, tensor + threads);
    }
    const Tensor out = attention(q, q, q, mask, pair);
    EXPECT_EQ(memory.live() - inputs, tensor + statistics);
    const Tensor grad = at::empty_like(out);
    const int64_t before = memory.live(), splits = 8 * H * L * L * kFloat, by_key = N * H * L * kFloat;
    memory.reset_peak();
    const auto gradients = torch::autograd::grad({out}, {q, mask, pair}, {grad});
    // dq, dk and dv are three before autograd adds them, and it may copy the first of them.
    EXPECT_LE(memory.peak() - before, 4 * tensor + splits + by_key + 2 * threads);
  }
  EXPECT_EQ(memory.live(), 0);
}

// Autograd sums an expanded bias's gradient over what it was expanded along; here it is as large as that.
TEST(AttentionOp, AnExpandedBiasHasAGradientOfItsOwnSize) {
  const Tensor q = random_normal({3, 70, 4, 8}, at::kFloat, "q");
  for (const int64_t groups : {4, 2}) {
    const Tensor k = random_normal({3, 70, groups, 8}, at::kFloat, "k");
    for (const Shape& base :
         {Shape{1, 4, 70, 70}, Shape{1, 1, 70, 70}, Shape{3, 1, 70, 70}, Shape{1, 1, 1, 70}}) {
      const Tensor whole = random_normal(base, at::kFloat, "bias").requires_grad_().expand({3, 4, 70, 70});
      const Tensor pair = random_normal({4, 70, 70}, at::kFloat, "pair").requires_grad_();
      const auto grads = torch::autograd::grad({attention(q, k, k, whole, pair)}, {whole, pair}, {q});
      const Tensor wide = whole.detach().to(at::kDouble).requires_grad_();
      const Tensor wide_pair = pair.detach().to(at::kDouble).requires_grad_();
      const Tensor exact =
          plain(q.to(at::kDouble), k.to(at::kDouble), k.to(at::kDouble), wide, wide_pair, {});
      const auto expected = torch::autograd::grad({exact}, {wide, wide_pair}, {q.to(at::kDouble)});
      for (size_t i = 0; i < 2; ++i)
        EXPECT_LE((grads[i] - expected[i]).abs().max().item<double>(), 5e-6) << base << groups;
    }
  }
  MemoryCount memory;
  {
    constexpr int64_t N = 640, L = 384, H = 8, D = 8, kFloat = 4;
    const auto options = at::TensorOptions(at::kMeta).dtype(at::kFloat);
    const Tensor meta = at::empty({1, N, L, H, D}, options);
    const Tensor pair = at::empty({1, 1, H, L, L}, options).requires_grad_().expand({1, N, H, L, L});
    const Tensor out = attention(meta, meta, meta, std::nullopt, pair);
    const int64_t before = memory.live(), threads = at::get_num_threads() * (int64_t{4} << 20);
    memory.reset_peak();
    const auto gradients = torch::autograd::grad({out}, {pair}, {meta});
    EXPECT_LE(memory.peak() - before, N * H * L * L * kFloat + threads);
  }
}

// More leading dims that no stride merges than the kernels walk: permuted tensors, biases that are broadcast
// in turns.
TEST(AttentionOp, AnyNumberOfLeadingDims) {
  for (const size_t n : {size_t{7}, size_t{8}}) {
    Shape leading(n, 2), even, odd;
    std::vector<int64_t> order;
    for (size_t d = 0; d < n; ++d) {
      even.push_back(d % 2 == 0 ? 2 : 1);
      odd.push_back(d % 2 == 0 ? 1 : 2);
      order.insert(order.begin(), static_cast<int64_t>(d));
    }
    for (const int64_t d : {n, n + 1, n + 2}) order.push_back(static_cast<int64_t>(d));
    const auto with = [](Shape shape, const Shape& rest) {
      shape.insert(shape.end(), rest.begin(), rest.end());
      return shape;
    };
    for (const bool turns : {false, true}) {
      Tensors leaves{random_normal(with(leading, {3, 2, 4}), at::kFloat, "q"),
                     random_normal(with(leading, {5, 2, 4}), at::kFloat, "k"),
                     random_normal(with(leading, {5, 2, 4}), at::kFloat, "v")};
      for (const Shape& shape : {even, odd})
        leaves.push_back(turns ? random_normal(with(shape, {1, 3, 5}), at::kFloat, "bias") : at::zeros({5}));
      const auto results = [&](at::ScalarType type, const auto& f) {
        Tensors t;
        for (const Tensor& x : leaves) t.push_back(x.to(type).detach().clone().requires_grad_());
        const Tensor out = f(t[0].permute(order), t[1], t[2].permute(order), t[3], t[4]);
        Tensors all =
            torch::autograd::grad({out}, t, {at::cos(at::arange(out.numel()).view(out.sizes())).to(type)});
        all.push_back(out.detach());
        return all;
      };
      const Tensors ours =
          results(at::kFloat, [](const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& b1,
                                 const Tensor& b2) { return attention(q, k, v, b1, b2); });
      const Tensors exact =
          results(at::kDouble, [](const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& b1,
                                  const Tensor& b2) { return plain(q, k, v, b1, b2, {}); });
      for (size_t i = 0; i < ours.size(); ++i) {
        ASSERT_EQ(ours[i].sizes(), exact[i].sizes());
        EXPECT_LE((ours[i] - exact[i]).abs().max().item<double>(), 1e-5) << n << turns << i;
      }
    }
  }
}

TEST(AttentionOp, ABiasOfNoRowsHasAGradientOfZero) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    const Tensor q = at::zeros({0, 9, 4, 8}, type), k = at::zeros({0, 11, 2, 8}, type);
    const Tensor bias = at::zeros({4, 9, 11}, type).requires_grad_();
    const Tensor grad = torch::autograd::grad({attention(q, k, k, bias, std::nullopt).sum()}, {bias})[0];
    EXPECT_TRUE(at::equal(grad, at::zeros_like(grad)));
  }
}

TEST(AttentionOp, TheBackwardOpChecksWhatItIsGiven) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("axial::attention_backward", "");
  const Tensor q = at::zeros({2, 3, 1, 8});
  const auto call = [&](const Tensor& grad, const Tensor& statistics, bool bias) {
    torch::jit::Stack stack{grad,
                            q,
                            statistics,
                            q,
                            q,
                            q,
                            c10::IValue(),
                            c10::IValue(),
                            c10::List<std::optional<Tensor>>(std::vector<std::optional<Tensor>>(8)),
                            std::vector<int64_t>{0, 0, 64, 64},
                            1.0,
                            c10::List<bool>({true, true, true, bias, false})};
    return refusal([&] { op.callBoxed(stack); });
  };
  const Tensor statistics = at::zeros({2, 1, 3, 2});
  EXPECT_EQ(call(q, statistics, false), "not refused");
  EXPECT_THAT(call(q, statistics, true), HasSubstr("no gradient of a bias that is not there"));
  EXPECT_THAT(call(at::zeros({1, 3, 1, 8}), statistics, false), HasSubstr("expected the shape of q"));
  EXPECT_THAT(call(q, at::zeros({1}), false), HasSubstr("statistics; expected"));
}

}  // namespace
}  // namespace axial::ops
