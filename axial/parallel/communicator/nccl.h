// SPDX-License-Identifier: Apache-2.0
// NCCL for tensors of CUDA devices, where torch brings it. Used by world.cpp.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>

#include "axial/parallel/communicator/c10d.h"

namespace axial::parallel {

/// Backends of one device per rank, the current one. Ranks find each other through `store`. Waits block the
/// host until a call is done; one that takes longer than `timeout` fails, and its group with it. Nothing can
/// be made of it in builds whose torch has no CUDA, and on machines without a device.
C10dBackends nccl_backends(const c10::intrusive_ptr<c10d::Store>& store, std::chrono::milliseconds timeout);

}  // namespace axial::parallel
