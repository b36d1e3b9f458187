// SPDX-License-Identifier: Apache-2.0
// A callback of torch's for ops of its dispatcher that sees their arguments, for products; attention adds its
// own, because how many pairs see each other is not in the sizes of its arguments.
#include "axial/ops/common/flop_count.h"

#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <memory>
#include <string_view>
#include <utility>

namespace axial::ops {

namespace {

// The count of this thread; null: nobody counts.
FlopCount*& current() {
  thread_local FlopCount* count = nullptr;
  return count;
}

bool& computes_again() {
  thread_local bool again = false;
  return again;
}

// Depth of counted ops in this thread: those inside of another are its own.
int64_t& depth() {
  thread_local int64_t depth = 0;
  return depth;
}

// How the columns of a product's result follow from its second factor.
enum class Columns { kLast, kFirst, kOne };

struct Product {
  std::string_view op;
  size_t left;  // place of the first factor among the arguments; the second follows
  Columns columns;
};

constexpr Product kProducts[] = {
    {"axial::linear", 0, Columns::kFirst}, {"aten::mm", 0, Columns::kLast},
    {"aten::addmm", 1, Columns::kLast},    {"aten::bmm", 0, Columns::kLast},
    {"aten::baddbmm", 1, Columns::kLast},  {"aten::mv", 0, Columns::kOne},
    {"aten::addmv", 1, Columns::kOne},     {"aten::dot", 0, Columns::kOne},
};

double columns_of(const at::Tensor& right, Columns columns) {
  if (columns == Columns::kOne) return 1;
  return static_cast<double>(right.size(columns == Columns::kFirst ? 0 : -1));
}

// Says to the end of an op that its begin was counted.
struct Entered final : at::ObserverContext {};

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& function) {
  const std::string_view name = function.name();
  const auto* product = std::find_if(std::begin(kProducts), std::end(kProducts),
                                     [&](const Product& p) { return p.op == name; });
  if (product == std::end(kProducts)) return nullptr;
  const auto inputs = function.inputs();
  if (inputs.size() <= product->left + 1 || !inputs[product->left].isTensor()) return nullptr;
  if (depth()++ == 0) {
    const at::Tensor &left = inputs[product->left].toTensor(), &right = inputs[product->left + 1].toTensor();
    add_flops({.products = 2 * static_cast<double>(left.numel()) * columns_of(right, product->columns)});
  }
  return std::make_unique<Entered>();
}

void end(const at::RecordFunction&, at::ObserverContext* entered) {
  if (entered != nullptr) --depth();
}

}  // namespace

Flops& Flops::operator+=(const Flops& other) {
  products += other.products;
  attention += other.attention;
  attention_square += other.attention_square;
  return *this;
}

Flops operator*(double factor, Flops flops) {
  flops.products *= factor;
  flops.attention *= factor;
  flops.attention_square *= factor;
  return flops;
}

FlopCount::FlopCount()
    : before_(std::exchange(current(), this)),
      callback_(at::addThreadLocalCallback(
          at::RecordFunctionCallback(&begin, &end).needsInputs(true).scopes({at::RecordScope::FUNCTION}))) {}

FlopCount::~FlopCount() {
  at::removeCallback(callback_);
  current() = before_;
}

RecomputeScope::RecomputeScope(bool again)
    : before_(std::exchange(computes_again(), computes_again() || again)) {}

RecomputeScope::~RecomputeScope() { computes_again() = before_; }

bool counts_flops() { return current() != nullptr; }

void add_flops(const Flops& all, const Flops& recomputed) {
  FlopCount* count = current();
  if (count == nullptr) return;
  count->all_ += all;
  count->recomputed_ += computes_again() ? all : recomputed;
}

}  // namespace axial::ops
