// SPDX-License-Identifier: Apache-2.0
// Selection of held parts, and readers over a table.
#include "axial/parallel/parameter_table/logical.h"

#include <ATen/core/grad_mode.h>

#include <c10/util/accumulate.h>

#include "axial/core/check/check.h"
#include "axial/core/text/text.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "parameter_table";

at::Tensor with_beginning(const at::Tensor& of, const at::Tensor& values) {
  at::Tensor copy = of.clone();
  write_beginning(copy, values);
  return copy;
}

}  // namespace

ParameterReaders readers_of(const ParameterTable& table) {
  ParameterReaders readers;
  for (const auto& row : table.rows()) {
    AXIAL_CHECK(row->value.defined(), kOp, "parameter '{}' is not materialised", row->spec.name);
    AXIAL_CHECK(row->holding.is_whole(row->spec.shape), kOp,
                "parameter '{}' is cut over ranks; expected a whole one", row->spec.name);
    readers[row->spec.name] = [&row = *row] { return row.is_sharded() ? row.part() : row.value.detach(); };
  }
  return readers;
}

at::Tensor read_parameter(const ParameterReaders& readers, const std::string& name) {
  const auto found = readers.find(name);
  if (found == readers.end()) {
    std::vector<std::string> names;
    for (const auto& [known, reader] : readers) names.push_back(known);
    fail(kOp, "no value for parameter '{}'{}", name, did_you_mean(name, names));
  }
  return found->second();
}

void fill_held(Parameter& row, const at::Tensor& held) {
  const at::NoGradGuard no_grad;
  const bool sharded = row.is_sharded(), away = row.away.defined();
  const at::Tensor& target = sharded ? row.shard : row.value;  // where it is not away
  const int64_t count = away ? c10::multiply_integers(row.away.sizes()) : target.numel();
  const bool whole = held.numel() == count;
  AXIAL_CHECK(whole || (row.spec.grows && held.numel() < count), kOp,
              "held part of '{}'; expected {} elements, got {}", row.spec.name, count, held.numel());
  if (!away) {
    write_beginning(target, held);
  } else {
    row.away.write(whole ? held : with_beginning(row.away.read(), held));
  }
  const bool cut = row.holding.is_flat() && !sharded;  // of ZeRO-1 and 2: the value is of all the slices
  const at::Tensor part =
      cut ? held.reshape({-1}).slice(0, row.holding.flat_begin, row.holding.flat_end) : held;
  const auto master = row.companions.find("master");
  if (master != row.companions.end()) write_beginning(master->second, part);
  if (row.offloaded.contains("master")) {
    row.offloaded.at("master").write(whole ? part : with_beginning(row.companion("master"), part));
  }
}

void write_beginning(const at::Tensor& to, const at::Tensor& values) {
  if (values.numel() == to.numel()) {
    to.copy_(values.view_as(to));
  } else {
    to.view({-1}).narrow(0, 0, values.numel()).copy_(values.reshape({-1}));
  }
}

void fill_parameter(Parameter& row, const at::Tensor& logical) {
  AXIAL_CHECK(row.spec.takes(logical.sizes().vec()), kOp, "values of '{}'; expected shape [{}], got [{}]",
              row.spec.name, fmt::join(row.spec.shape, ", "), fmt::join(logical.sizes(), ", "));
  Holding holding = row.is_sharded() ? row.holding : row.holding.without_flat();
  if (row.spec.grows) holding = holding.within_rows(logical.size(0));
  fill_held(row, holding.select(logical));
}

void fill_parameters(ParameterTable& table, const ParameterReaders& readers) {
  for (const auto& row : table.rows()) {
    const bool empty = c10::multiply_integers(row->holding.sliced_shape()) == 0;
    if (!empty) fill_parameter(*row, read_parameter(readers, row->spec.name));
  }
}

}  // namespace axial::parallel
