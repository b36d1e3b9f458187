// SPDX-License-Identifier: Apache-2.0
// Masks from functions, tensors, files, windows and lists, over one rank and over rows that ranks share,
// against plain softmax; blocks and the dense bias say the same.
#include "axial/parallel/sequence_attention/mask.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <fstream>

#include "axial/core/check/check.h"
#include "axial/testing/ranks/ranks.h"
#include "axial/testing/temporary_folder/temporary_folder.h"

namespace axial::parallel {
namespace {

using axial::testing::require;
using ::testing::HasSubstr;

constexpr int64_t kLength = 37, kHeads = 2, kWidth = 3;

at::Tensor made(double phase) {
  const at::Tensor i = at::arange(kLength * kHeads * kWidth, at::kDouble);
  return (i * 0.61 + phase).sin().view({kLength, kHeads, kWidth}).set_requires_grad(true);
}

at::Tensor dense(const SeesFunction& sees) {
  at::Tensor out = at::zeros({kLength, kLength}, at::kByte);
  for (int64_t q = 0; q < kLength; ++q) {
    for (int64_t k = 0; k <= q; ++k) out[q][k] = sees(q, k) ? 1 : 0;
  }
  return out.to(at::kBool);
}

struct Results {
  at::Tensor out;
  std::vector<at::Tensor> grads;
};

at::Tensor weight_of(const at::Tensor& out) {
  return (at::arange(out.numel(), at::kDouble) * 0.3).cos().view(out.sizes());
}

// Softmax with a mask; queries that see nothing give 0.
Results plain(const SeesFunction& sees) {
  const std::vector<at::Tensor> qkv{made(0), made(1), made(2)};
  const at::Tensor mask = dense(sees);
  const at::Tensor logits =
      at::einsum("qhd,khd->hqk", {qkv[0], qkv[1]}) / std::sqrt(static_cast<double>(kWidth));
  const at::Tensor shown = logits.masked_fill(mask.logical_not(), -1e30);
  const at::Tensor p = shown.softmax(-1).masked_fill(mask.logical_not(), 0);
  const at::Tensor out = at::einsum("hqk,khd->qhd", {p, qkv[2]});
  return {out.detach(), torch::autograd::grad({(out * weight_of(out)).sum()}, qkv)};
}

// Of this rank's places.
Results attended(const RowMask& mask, Communicator* ranks) {
  const auto layout =
      ranks == nullptr ? SequenceLayout::whole(kLength) : SequenceLayout::over(ranks->mesh(), kLength);
  PackedRow row;
  row.tokens.assign(kLength, 1);
  row.record_starts = {0};
  const NamedTensors batch = layout.make_batch({row}, 0);
  const at::Tensor places = layout.row_positions();
  std::vector<at::Tensor> qkv;
  for (const double phase : {0.0, 1.0, 2.0}) {
    qkv.push_back(made(phase).detach().index_select(0, places).set_requires_grad(true));
  }
  SequenceAttentionOptions options;
  mask.add_to(options, layout, at::kDouble);
  require(options.attended_bias.has_value() == !mask.is_blocks(), "a bias only where blocks do not do");
  StepContext context;
  context.ranks = ranks;
  context.sequence = &layout;
  const at::Tensor out = sequence_attention(qkv[0], qkv[1], qkv[2], batch, context, options);
  const at::Tensor weight = weight_of(made(0)).index_select(0, places);
  return {out.detach(), torch::autograd::grad({(out * weight).sum()}, qkv)};
}

void compare(const SeesFunction& sees, const RowMask& mask, Communicator* ranks, const std::string& what) {
  const Results expected = plain(sees), got = attended(mask, ranks);
  const at::Tensor places =
      (ranks == nullptr ? SequenceLayout::whole(kLength) : SequenceLayout::over(ranks->mesh(), kLength))
          .row_positions();
  const auto same = [&](const at::Tensor& x, const at::Tensor& y) {
    return at::allclose(x, y.index_select(0, places), 1e-10, 1e-12);
  };
  require(same(got.out, expected.out), what + ": output");
  for (size_t i = 0; i < 3; ++i)
    require(same(got.grads[i], expected.grads[i]), what + ": gradient " + std::to_string(i));
}

struct Case {
  std::string name;
  SeesFunction sees;
  std::function<RowMask()> make;
  bool is_blocks;
};

std::vector<Case> cases() {
  const auto pattern = [](int64_t q, int64_t k) {
    return q != 9 && (q * 7 + k * 3) % 5 != 0;
  };  // 9 sees nothing
  const auto blocks = [](int64_t q, int64_t k) { return (q / 8 + k / 8) % 2 == 0; };
  const auto global = [](int64_t place) { return place == 0 || place == 11 || place == 30; };
  const auto window = [=](int64_t q, int64_t k) { return q - k <= 5 || global(q) || global(k); };
  return {{"function", pattern, [=] { return RowMask(kLength, pattern, 8); }, false},
          {"tensor", pattern, [=] { return RowMask(dense(pattern), 16); }, false},
          {"blocks", blocks, [=] { return RowMask(kLength, blocks, 8); }, true},
          {"blocks of half the size", blocks, [=] { return RowMask(kLength, blocks, 4); }, true},
          {"blocks that do not fit", blocks, [=] { return RowMask(kLength, blocks, 5); }, false},
          {"window and global", window,
           [] {
             return RowMask::window_and_global(kLength, 5, {0, 11, 30}, 8);
           },
           false},
          {"nothing", [](int64_t, int64_t) { return false; },
           [] {
             return RowMask(
                 kLength, [](int64_t, int64_t) { return false; }, 8);
           },
           true}};
}

void check_all(Communicator* ranks) {
  for (const Case& c : cases()) {
    const RowMask mask = c.make();
    require(mask.is_blocks() == c.is_blocks, c.name + ": is_blocks");
    compare(c.sees, mask, ranks, c.name);
  }
}

TEST(RowMask, OneRank) { EXPECT_NO_THROW(check_all(nullptr)); }

TEST(RowMask, RowsThatRanksShare) {
  EXPECT_EQ(axial::testing::failures(axial::testing::run_ranks(
                4,
                [](World& world) {
                  for (const int64_t ring : {2, 4}) {  // two heads go to two ulysses ranks at most
                    const auto ranks = world.make_communicator(
                        Mesh({{"ring", ring}, {"ulysses", 4 / ring}}, world.size(), world.rank()));
                    check_all(ranks.get());
                  }
                })),
            "");
}

std::string npy(const std::string& dtype, const std::string& shape, const std::string& body,
                const char* order = "False") {
  std::string header =
      "{'descr': '" + dtype + "', 'fortran_order': " + order + ", 'shape': (" + shape + "), }\n";
  std::string out("\x93NUMPY\x01\x00", 8);
  out += static_cast<char>(header.size());
  out += '\0';
  return out + header + body;
}

TEST(RowMask, FilesOfNumPy) {
  const axial::testing::TemporaryFolder folder;
  const auto write = [&](const std::string& text) {
    std::ofstream(folder / "mask.npy", std::ios::binary) << text;
    return folder / "mask.npy";
  };
  const auto window = [](int64_t q, int64_t k) { return q - k <= 3; };
  const at::Tensor sees = dense(window).to(at::kByte).contiguous();
  const std::string body(reinterpret_cast<const char*>(sees.const_data_ptr<uint8_t>()), kLength * kLength);
  for (const char* dtype : {"|b1", "|u1"}) {
    EXPECT_NO_THROW(compare(window, RowMask::from_npy(write(npy(dtype, "37, 37", body)), 8), nullptr, dtype));
  }
  const auto message = [&](const std::string& text) -> std::string {
    try {
      RowMask::from_npy(write(text));
    } catch (const ValueError& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(message("no numpy"), HasSubstr("is no NumPy file"));
  EXPECT_THAT(message(npy("<f4", "37, 37", body)), HasSubstr("got '<f4' of (37, 37)"));
  EXPECT_THAT(message(npy("|b1", "37, 36", body)), HasSubstr("of shape (N, N)"));
  EXPECT_THAT(message(npy("|b1", "37,", body)), HasSubstr("of shape (N, N)"));
  EXPECT_THAT(message(npy("|b1", "37, 37", body, "True")), HasSubstr("fortran_order True"));
  EXPECT_THAT(message(npy("|b1", "37, 37", body + "x")), HasSubstr("1370 bytes"));
  EXPECT_THAT(message(npy("|b1", "37, 37", "")), HasSubstr("0 bytes"));
  EXPECT_THAT(message(npy("|b1", "37, 37", body).substr(0, 30)), HasSubstr("ends inside"));
  EXPECT_THROW(RowMask::from_npy(folder / "absent.npy"), IoError);
}

TEST(RowMask, WhatDoesNotFitIsRefused) {
  const auto all = [](int64_t, int64_t) { return true; };
  EXPECT_THROW(RowMask(0, all), ValueError);
  EXPECT_THROW(RowMask(4, all, 0), ValueError);
  EXPECT_THROW(RowMask(4, nullptr), ValueError);
  EXPECT_THROW(RowMask(at::zeros({4, 5}, at::kBool)), ValueError);
  EXPECT_THROW(RowMask(at::zeros({4, 4})), ValueError);
  EXPECT_THROW(RowMask::window_and_global(4, 1, {4}), ValueError);
  EXPECT_THROW(RowMask::window_and_global(4, -1, {}), ValueError);
  SequenceAttentionOptions options;
  EXPECT_THROW(RowMask(4, all).add_to(options, SequenceLayout::whole(5), at::kFloat), ValueError);
  options.bias = at::zeros({1, 1, 4, 4});
  EXPECT_NO_THROW(RowMask(4, all).add_to(options, SequenceLayout::whole(4), at::kFloat));
  const auto some = [](int64_t q, int64_t k) { return q == k; };
  EXPECT_THROW(RowMask(4, some).add_to(options, SequenceLayout::whole(4), at::kFloat), ValueError);
  SequenceAttentionOptions twice;
  RowMask(4, some).add_to(twice, SequenceLayout::whole(4), at::kFloat);
  EXPECT_THROW(RowMask(4, some).add_to(twice, SequenceLayout::whole(4), at::kFloat), ValueError);
  // What a call refuses.
  const at::Tensor q = at::zeros({4, 1, 2});
  const auto layout = SequenceLayout::whole(4);
  const NamedTensors batch = layout.make_batch({PackedRow{{1, 1, 1, 1}, {0}}}, 0);
  twice.bias = at::zeros({1, 1, 4, 4});
  EXPECT_THROW(sequence_attention(q, q, q, batch, {}, twice), ValueError);
  twice.bias.reset();
  twice.attended_bias = at::zeros({1, 1, 4, 4}).set_requires_grad(true);
  EXPECT_THROW(sequence_attention(q, q, q, batch, {}, twice), ValueError);
  twice.attended_bias = at::zeros({1, 1, 4, 3});
  EXPECT_THROW(sequence_attention(q, q, q, batch, {}, twice), ValueError);
}

}  // namespace
}  // namespace axial::parallel
