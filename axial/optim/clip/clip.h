// SPDX-License-Identifier: Apache-2.0
// Global norm of all gradients, and the factor that clips it. The factor is folded into the update, so
// clipping costs no pass of its own.
#pragma once

#include "axial/parallel/communicator/communicator.h"
#include "axial/parallel/parameter_table/parameter_table.h"

namespace axial::optim {

/// L2 norm over the gradients of all rows and, where `ranks` is not null, of all ranks that hold other parts
/// of them (every element once), in fp64 with a fixed order of addition; rows without a gradient count as
/// zero. NaN or infinity when any gradient is not finite. On Meta: `nominal`. Sends one fp64 number per set
/// of axes that part some parameter.
double global_gradient_norm(const parallel::ParameterTable& parameters,
                            parallel::Communicator* ranks = nullptr, double nominal = 1.0);

/// Factor that brings `norm` down to `max_norm`; 1 when it is below, when max_norm is 0 (no clipping), and
/// for a norm that is not finite (the caller must not apply such a step). Throws ValueError for max_norm < 0.
double clip_factor(double norm, double max_norm);

}  // namespace axial::optim
