// SPDX-License-Identifier: Apache-2.0
// The names are torchrun's.
#include "axial/parallel/communicator/rank_process.h"

#include <unistd.h>

#include <algorithm>

namespace axial::parallel {

Variables rank_variables(int64_t rank, int64_t size, uint16_t port) {
  Variables variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    variables[text.substr(0, text.find('='))] = text.substr(std::min(text.size(), text.find('=') + 1));
  }
  variables["RANK"] = variables["LOCAL_RANK"] = std::to_string(rank);
  variables["WORLD_SIZE"] = variables["LOCAL_WORLD_SIZE"] = std::to_string(size);
  variables.insert_or_assign("MASTER_ADDR", std::string("127.0.0.1"));
  variables["MASTER_PORT"] = std::to_string(port);
  variables.insert_or_assign("TORCHELASTIC_USE_AGENT_STORE", std::string("True"));
  return variables;
}

std::vector<std::string> assignments(const Variables& variables) {
  std::vector<std::string> out;
  for (const auto& [name, value] : variables) out.push_back(name + "=" + value);
  return out;
}

std::vector<char*> exec_strings(std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (std::string& text : texts) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

}  // namespace axial::parallel
