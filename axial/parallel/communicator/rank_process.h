// SPDX-License-Identifier: Apache-2.0
// What another process of this machine is started with to be a rank, as torchrun starts one. Used by
// `--ranks` and by tests.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace axial::parallel {

/// Environment variables by name.
using Variables = std::map<std::string, std::string>;

/// Those of this process, but of rank `rank` of `size` ranks that meet at a StoreHost:
/// World::from_environment.
Variables rank_variables(int64_t rank, int64_t size, uint16_t port);

/// "NAME=value" of each.
std::vector<std::string> assignments(const Variables& variables);

/// Arguments or assignments as exec takes them: pointers into `texts`, then null.
std::vector<char*> exec_strings(std::vector<std::string>& texts);

}  // namespace axial::parallel
