// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "axial/kernels/common/test_buffers.h"
#include "axial/kernels/common/test_targets.h"
#include "axial/kernels/optimizer_step/implementations.h"

namespace axial::kernels {
namespace {

using test::Buffer;
using test::random_values;

// A list of parameters with all that a step reads and writes; tensors() points into it.
class Model {
 public:
  Model(DType dtype, DType grad_dtype, DType copy_dtype, const std::vector<int64_t>& counts) {
    int index = 0;
    for (const int64_t n : counts) {
      const std::string name = std::to_string(index++);
      std::vector<double> second = random_values("v" + name, n, 0.1);
      for (double& v : second) v *= v;
      parameters.emplace_back(dtype, random_values("p" + name, n));
      moments.emplace_back(dtype, random_values("m" + name, n, 0.1));
      squares.emplace_back(dtype, second);
      grads.emplace_back(grad_dtype, random_values("g" + name, n, 8));
      copies.emplace_back(copy_dtype, n);
    }
  }
  std::vector<AdamWTensor> tensors() {
    std::vector<AdamWTensor> list;
    for (size_t i = 0; i < parameters.size(); ++i) {
      list.push_back({.parameter = parameters[i].data(),
                      .exp_avg = moments[i].data(),
                      .exp_avg_sq = squares[i].data(),
                      .grad = grads[i].data(),
                      .copy = i == 1 ? nullptr : copies[i].data(),
                      .count = parameters[i].size(),
                      .step = 3 + static_cast<int64_t>(i),
                      .lr = 0.02,
                      .weight_decay = i % 2 == 0 ? 0.1 : 0.0});
    }
    return list;
  }
  std::vector<Buffer> outputs() const {
    std::vector<Buffer> all = parameters;
    all.insert(all.end(), moments.begin(), moments.end());
    all.insert(all.end(), squares.begin(), squares.end());
    all.insert(all.end(), copies.begin(), copies.end());
    return all;
  }
  // The same numbers with everything in fp64: inputs are what the narrow types hold.
  Model widened() {
    Model wide = *this;
    for (std::vector<Buffer>* list : {&wide.parameters, &wide.moments, &wide.squares, &wide.grads}) {
      for (Buffer& buffer : *list) buffer = buffer.widened();
    }
    return wide;
  }

  std::vector<Buffer> parameters, moments, squares, grads, copies;
};

constexpr double kScale = 0.125;

AdamWStep step_of(const std::vector<AdamWTensor>& list, DType dtype, DType grad_dtype, DType copy_dtype) {
  return {.tensors = list,
          .dtype = dtype,
          .grad_dtype = grad_dtype,
          .copy_dtype = copy_dtype,
          .beta1 = 0.9,
          .beta2 = 0.95,
          .eps = 1e-6,
          .grad_scale = kScale};
}

// Counts around vectors and chunks, empty tensors, several tensors in a chunk, several chunks in a tensor.
const std::vector<int64_t> kCounts{1, 17, 0, 65536, 3, 140001, 0, 1023};

TEST(AdamW, FollowsTorch) {
  // From torch.optim.AdamW 2.13 in float64 with lr 0.01, betas (0.9, 0.95), eps 1e-8, weight_decay 0.1,
  // gradients {0.1 s, -0.2, 0.3 / s, 0, -1 + 0.5 s} at step s = 1..5, foreach and fused off.
  const std::vector<double> parameter{0.44975197026706476, -1.193862390051244, 1.9453714245303773,
                                      -0.03109406218765622, 0.005070407637134314};
  const std::vector<double> moment{0.13144099999999997, -0.08190199999999999, 0.051467999999999986, 0.0,
                                   0.24769499999999994};
  const std::vector<double> square{0.026283253125000024, 0.009048762500000009, 0.005528262500000005, 0.0,
                                   0.18146257812500016};
  for (const auto& implementation : adamw_step_table()) {
    SCOPED_TRACE(implementation.name);
    std::vector<double> p{0.5, -1.25, 2.0, -0.03125, 1e-3};
    std::vector<double> m(5), v(5);
    for (int64_t s = 1; s <= 5; ++s) {
      const double t = static_cast<double>(s);
      const std::vector<double> g{0.1 * t, -0.2, 0.3 / t, 0.0, -1.0 + 0.5 * t};
      const std::vector<AdamWTensor> list{{.parameter = p.data(),
                                           .exp_avg = m.data(),
                                           .exp_avg_sq = v.data(),
                                           .grad = g.data(),
                                           .count = 5,
                                           .step = s,
                                           .lr = 0.01,
                                           .weight_decay = 0.1}};
      const AdamWStep step{.tensors = list, .dtype = DType::kF64, .grad_dtype = DType::kF64, .beta2 = 0.95};
      ASSERT_TRUE(implementation.run(step, serial_parallel_for()).ok());
    }
    for (size_t i = 0; i < 5; ++i) {
      EXPECT_NEAR(p[i], parameter[i], 1e-14);  // a few roundings of values near 1 in each of five steps
      EXPECT_NEAR(m[i], moment[i], 1e-15);
      EXPECT_NEAR(v[i], square[i], 1e-15);
    }
  }
}

void expect_vectors_err_at_most_twice() {
  const std::pair<DType, DType> kinds[] = {{DType::kF32, DType::kF32},
                                           {DType::kF32, DType::kBF16},
                                           {DType::kF32, DType::kF16},
                                           {DType::kF64, DType::kF32},
                                           {DType::kF64, DType::kF64}};
  for (const auto& [dtype, grad_dtype] : kinds) {
    SCOPED_TRACE(fmt::format("{} with gradients of {}", name_of(dtype), name_of(grad_dtype)));
    Model plain(dtype, grad_dtype, DType::kF32, kCounts);
    Model fast = plain;
    Model truth = plain.widened();
    const auto run = [&](const Implementation<AdamWStep>& which, Model& model, DType t, DType g) {
      const auto list = model.tensors();
      ASSERT_TRUE(which.run(step_of(list, t, g, DType::kF32), thread_parallel_for(3)).ok());
    };
    run(adamw_step_table().front(), fast, dtype, grad_dtype);
    run(adamw_step_table().back(), plain, dtype, grad_dtype);
    run(adamw_step_table().back(), truth, DType::kF64, DType::kF64);
    // In fp64 the truth is the plain loops themselves: allow the roundings of a step, at most eight.
    const auto agrees = [wide = dtype == DType::kF64](Buffer& a, Buffer& b, Buffer& t) {
      return test::within_twice(a, b, t, wide ? 8 * test::largest(t) : 0);
    };
    for (size_t i = 0; i < kCounts.size(); ++i) {
      SCOPED_TRACE(i);
      EXPECT_TRUE(agrees(fast.parameters[i], plain.parameters[i], truth.parameters[i]));
      EXPECT_TRUE(agrees(fast.moments[i], plain.moments[i], truth.moments[i]));
      EXPECT_TRUE(agrees(fast.squares[i], plain.squares[i], truth.squares[i]));
    }
    for (const Buffer& buffer : fast.outputs()) EXPECT_TRUE(buffer.guards_intact());
  }
}

TEST(AdamW, VectorsErrAtMostTwiceAsPlainLoops) { test::for_each_target(expect_vectors_err_at_most_twice); }

TEST(AdamW, CopyIsTheRoundedParameter) {
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const DType copy_dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const auto& implementation : adamw_step_table()) {
        SCOPED_TRACE(fmt::format("{} to {}, {}", name_of(dtype), name_of(copy_dtype), implementation.name));
        Model model(dtype, DType::kF32, copy_dtype, {1500, 33, 7});
        model.parameters[0].set(0, 1e30);  // beyond fp16
        model.parameters[0].set(1, 3e-7);  // subnormal in fp16
        const Buffer untouched = model.copies[1];
        const auto list = model.tensors();
        ASSERT_TRUE(
            implementation.run(step_of(list, dtype, DType::kF32, copy_dtype), serial_parallel_for()).ok());
        for (const size_t i : {size_t{0}, size_t{2}}) {
          Buffer expected(copy_dtype, model.parameters[i].values());
          EXPECT_TRUE(model.copies[i].same_bytes(expected)) << "tensor " << i;
        }
        EXPECT_TRUE(model.copies[1].same_bytes(untouched)) << "a tensor without a copy";
      }
    }
  }
}

TEST(AdamW, SameBitsForAnyThreads) {
  const Model start(DType::kF32, DType::kF32, DType::kBF16, kCounts);
  for (const auto& implementation : adamw_step_table()) {
    test::expect_equal_for_any_threads([&](const ParallelFor& parallel_for) {
      Model model = start;
      const auto list = model.tensors();
      const AdamWStep step = step_of(list, DType::kF32, DType::kF32, DType::kBF16);
      EXPECT_TRUE(implementation.run(step, parallel_for).ok());
      return model.outputs();
    });
  }
}

// An element's result must not depend on where it lies in the list (so in a vector or a chunk).
TEST(AdamW, SameBitsWhereverAnElementLies) {
  Model whole(DType::kF32, DType::kF32, DType::kBF16, {70001});
  Model parts = whole;
  const auto list = whole.tensors();
  ASSERT_TRUE(adamw_step(step_of(list, DType::kF32, DType::kF32, DType::kBF16), serial_parallel_for()).ok());
  std::vector<AdamWTensor> cut;
  for (int64_t begin = 0, n = 1; begin < 70001; begin += n, n = std::min<int64_t>(3 * n + 1, 70001 - begin)) {
    AdamWTensor t = parts.tensors()[0];
    t.parameter = static_cast<float*>(t.parameter) + begin;
    t.exp_avg = static_cast<float*>(t.exp_avg) + begin;
    t.exp_avg_sq = static_cast<float*>(t.exp_avg_sq) + begin;
    t.grad = static_cast<const float*>(t.grad) + begin;
    t.copy = static_cast<BFloat16*>(t.copy) + begin;
    t.count = n;
    cut.push_back(t);
  }
  ASSERT_GT(cut.size(), 8u);
  ASSERT_TRUE(adamw_step(step_of(cut, DType::kF32, DType::kF32, DType::kBF16), serial_parallel_for()).ok());
  const auto a = whole.outputs(), b = parts.outputs();
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i].same_bytes(b[i])) << i;
}

TEST(AdamW, RefusesWrongArguments) {
  Model model(DType::kF32, DType::kF32, DType::kBF16, {4});
  const auto list = model.tensors();
  const AdamWStep good = step_of(list, DType::kF32, DType::kF32, DType::kBF16);
  const auto code = [](const AdamWStep& step) { return adamw_step(step, serial_parallel_for()).code; };
  const auto with = [&](auto change) {
    AdamWStep step = good;
    change(step);
    return code(step);
  };
  EXPECT_EQ(with([](AdamWStep& s) { s.beta1 = 1; }), StatusCode::kInvalid);
  EXPECT_EQ(with([](AdamWStep& s) { s.beta2 = -0.1; }), StatusCode::kInvalid);
  EXPECT_EQ(with([](AdamWStep& s) { s.eps = std::nan(""); }), StatusCode::kInvalid);
  EXPECT_EQ(with([](AdamWStep& s) { s.dtype = DType::kBF16; }), StatusCode::kUnsupported);
  EXPECT_EQ(with([](AdamWStep& s) { s.grad_dtype = DType::kF64; }), StatusCode::kUnsupported);
  EXPECT_EQ(with([](AdamWStep& s) { s.copy_dtype = DType::kI8; }), StatusCode::kUnsupported);
  for (const auto change : std::initializer_list<void (*)(AdamWTensor&)>{
           [](AdamWTensor& t) { t.step = 0; }, [](AdamWTensor& t) { t.count = -1; },
           [](AdamWTensor& t) { t.grad = nullptr; }, [](AdamWTensor& t) { t.exp_avg = nullptr; }}) {
    std::vector<AdamWTensor> wrong = list;
    change(wrong[0]);
    AdamWStep step = good;
    step.tensors = wrong;
    EXPECT_EQ(code(step), StatusCode::kInvalid);
  }
  EXPECT_EQ(code(AdamWStep{}), StatusCode::kOk);  // an empty list is no work
}

}  // namespace
}  // namespace axial::kernels
