// SPDX-License-Identifier: Apache-2.0
// Node to YAML text and to JSON, and JSON to Node. The YAML loads back as an equal tree.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "axial/core/recipe/node.h"

namespace axial::recipe {
namespace {

bool resolves_to_text(std::string_view text) {
  return !is_null_word(text) && !bool_of(text) && !number_of(text) && !looks_like_integer(text);
}

bool safe_plain(std::string_view text) {
  static constexpr std::string_view kYaml11[] = {"y", "n", "yes", "no", "on", "off"};
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c); });
  if (std::find(std::begin(kYaml11), std::end(kYaml11), lower) != std::end(kYaml11)) return false;
  const auto word = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '/' || c == '.';
  };
  if (text.empty() || text.size() > 200 || !word(text[0]) || text.substr(0, 3) == "...") return false;
  return std::all_of(text.begin(), text.end(), [&](char c) { return word(c) || c == '-' || c == '+'; });
}

std::string quote(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
        } else {
          out += c;
        }
    }
  }
  return out + "\"";
}

std::string scalar_text(const Node& node) {
  if (!resolves_to_text(node.scalar)) return node.quoted ? quote(node.scalar) : node.scalar;
  return safe_plain(node.scalar) ? node.scalar : quote(node.scalar);
}

std::string key_text(const std::string& key) {
  return resolves_to_text(key) && safe_plain(key) && key != "<<" ? key : quote(key);
}

bool needs_block(const Node& node) {
  if (node.kind == Node::Kind::kSection) return !node.entries.empty();
  return node.kind == Node::Kind::kList && std::any_of(node.items.begin(), node.items.end(),
                                                       [](const Node& item) { return needs_block(item); });
}

void emit_block(const Node& node, size_t indent, std::string& out) {
  const std::string margin(indent, ' ');
  for (const Node::Entry& entry : node.entries) {
    out += margin + key_text(entry.key) + ":";
    if (needs_block(entry.value)) {
      out += "\n";
      emit_block(entry.value, indent + 2, out);
    } else {
      out += " " + to_flow_yaml(entry.value) + "\n";
    }
  }
  for (const Node& item : node.items) {
    if (needs_block(item)) {
      std::string body;
      emit_block(item, indent + 2, body);
      body.replace(indent, 2, "- ");
      out += body;
    } else {
      out += margin + "- " + to_flow_yaml(item) + "\n";
    }
  }
}

}  // namespace

std::string to_flow_yaml(const Node& node) {
  std::string out;
  switch (node.kind) {
    case Node::Kind::kNull:
      return "null";
    case Node::Kind::kScalar:
      return scalar_text(node);
    case Node::Kind::kList:
      for (const Node& item : node.items) out += (out.empty() ? "" : ", ") + to_flow_yaml(item);
      return "[" + out + "]";
    case Node::Kind::kSection:
      for (const Node::Entry& entry : node.entries) {
        out += (out.empty() ? "" : ", ") + key_text(entry.key) + ": " + to_flow_yaml(entry.value);
      }
      return "{" + out + "}";
  }
  return out;
}

std::string to_yaml(const Node& node) {
  if (!needs_block(node)) return to_flow_yaml(node) + "\n";
  std::string out;
  emit_block(node, 0, out);
  return out;
}

nlohmann::json to_json(const Node& node) {
  switch (node.kind) {
    case Node::Kind::kNull:
      return nullptr;
    case Node::Kind::kList: {
      nlohmann::json out = nlohmann::json::array();
      for (const Node& item : node.items) out.push_back(to_json(item));
      return out;
    }
    case Node::Kind::kSection: {
      nlohmann::json out = nlohmann::json::object();
      for (const Node::Entry& entry : node.entries) out[entry.key] = to_json(entry.value);
      return out;
    }
    case Node::Kind::kScalar:
      break;
  }
  if (node.quoted) return node.scalar;
  if (const auto flag = bool_of(node.scalar)) return *flag;
  if (const auto integer = integer_of(node.scalar)) return *integer;
  if (looks_like_integer(node.scalar)) {
    throw RecipeError(node.where, "", fmt::format("integer '{}' does not fit 64 bits", node.scalar));
  }
  if (const auto number = number_of(node.scalar)) return *number;
  return node.scalar;
}

Node from_json(const nlohmann::json& value) {
  Node node;
  if (value.is_object()) {
    node = Node::section();
    for (const auto& [key, item] : value.items()) node.entries.push_back({key, {}, from_json(item)});
  } else if (value.is_array()) {
    node = Node::list();
    for (const auto& item : value) node.items.push_back(from_json(item));
  } else if (value.is_string()) {
    node = Node::text(value.get<std::string>());
  } else if (value.is_number_float()) {
    node = Node::plain(number_text(value.get<double>()));
  } else if (value.is_boolean() || value.is_number()) {
    node = Node::plain(value.dump());
  } else if (!value.is_null()) {
    throw RecipeError({}, "",
                      fmt::format("a JSON value of type {} has no place in a recipe", value.type_name()));
  }
  return node;
}

}  // namespace axial::recipe
