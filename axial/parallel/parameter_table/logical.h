// SPDX-License-Identifier: Apache-2.0
// Between what a rank holds of parameters and their logical values. Used by what reads, writes and exports
// models.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>

#include "axial/parallel/parameter_table/parameter_table.h"

namespace axial::parallel {

/// Logical values by name, each made when it is asked for: a model need not be whole anywhere.
using ParameterReaders = std::map<std::string, std::function<at::Tensor()>, std::less<>>;

/// Of a materialised table of whole parameters. Throws ValueError naming one that is cut or has no value.
ParameterReaders readers_of(const ParameterTable& table);

/// The logical value of a parameter; throws ValueError for a name without reader.
at::Tensor read_parameter(const ParameterReaders& readers, const std::string& name);

/// Set the held part of a parameter, and of its master copy. `held` has the slices, of ZeRO-3 the flat
/// interval of them; cast to the dtypes that are there. Of one that grows it may be a beginning (of
/// Holding::within_rows): the rest stays as it is.
void fill_held(Parameter& row, const at::Tensor& held);

/// The same from the logical value, or from fewer rows of one that grows.
void fill_parameter(Parameter& row, const at::Tensor& logical);

/// `values` over the first elements of a tensor of as many or more.
void write_beginning(const at::Tensor& to, const at::Tensor& values);

/// Fill a materialised table, one parameter after the other; those of which nothing is held are not read.
void fill_parameters(ParameterTable& table, const ParameterReaders& readers);

}  // namespace axial::parallel
