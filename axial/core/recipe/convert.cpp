// SPDX-License-Identifier: Apache-2.0
// Reading typed values out of nodes with errors that say what was expected and what was found, and the
// help text.
#include "axial/core/recipe/convert.h"

#include <algorithm>

#include "axial/core/recipe/recipe.h"
#include "axial/core/text/text.h"

namespace axial::recipe {
namespace detail {
namespace {

std::string found(const Node& node) {
  switch (node.kind) {
    case Node::Kind::kNull:
      return "nothing";
    case Node::Kind::kList:
      return fmt::format("a list of {}", node.items.size());
    case Node::Kind::kSection:
      return "a section";
    case Node::Kind::kScalar:
      break;
  }
  if (node.scalar.size() <= 60) return fmt::format("'{}'", node.scalar);
  size_t end = 57;
  while (end > 0 && (static_cast<unsigned char>(node.scalar[end]) & 0xC0) == 0x80) --end;  // whole characters
  return fmt::format("'{}...'", node.scalar.substr(0, end));
}

[[noreturn]] void wrong_type(const Node& node, const std::string& path, std::string_view expected) {
  throw RecipeError(node.where, path, fmt::format("expected {}, got {}", expected, found(node)));
}

bool is_plain(const Node& node) { return node.kind == Node::Kind::kScalar && !node.quoted; }

}  // namespace

std::string join(const std::string& path, std::string_view key) {
  return path.empty() ? std::string(key) : fmt::format("{}.{}", path, key);
}

bool read_bool(const Node& node, const std::string& path) {
  const auto value = is_plain(node) ? bool_of(node.scalar) : std::nullopt;
  if (!value) wrong_type(node, path, "true or false");
  return *value;
}

int64_t read_integer(const Node& node, const std::string& path, int64_t min, int64_t max) {
  if (!is_plain(node) || !looks_like_integer(node.scalar)) wrong_type(node, path, "an integer");
  const auto value = integer_of(node.scalar);
  if (!value || *value < min || *value > max) {
    wrong_type(node, path, fmt::format("an integer from {} to {}", min, max));
  }
  return *value;
}

double read_number(const Node& node, const std::string& path) {
  const auto value = is_plain(node) ? number_of(node.scalar) : std::nullopt;
  if (!value) wrong_type(node, path, "a number");
  return *value;
}

std::string read_text(const Node& node, const std::string& path) {
  if (node.kind != Node::Kind::kScalar) wrong_type(node, path, "text");
  return node.scalar;
}

size_t read_choice(const Node& node, const std::string& path, const std::vector<std::string>& choices) {
  const auto at = std::find(choices.begin(), choices.end(), node.scalar);
  if (node.kind == Node::Kind::kScalar && at != choices.end()) {
    return static_cast<size_t>(at - choices.begin());
  }
  const std::string expected = fmt::format("one of {}", fmt::join(choices, ", "));
  if (node.kind != Node::Kind::kScalar) wrong_type(node, path, expected);
  throw RecipeError(
      node.where, path,
      fmt::format("expected {}, got {}{}", expected, found(node), did_you_mean(node.scalar, choices)));
}

const std::vector<Node>& list_items(const Node& node, const std::string& path) {
  if (node.kind != Node::Kind::kList) wrong_type(node, path, "a list");
  return node.items;
}

const std::vector<Node::Entry>& section_entries(const Node& node, const std::string& path) {
  // A section whose keys are all commented out reads as null; it is an empty section.
  if (node.kind != Node::Kind::kSection && node.kind != Node::Kind::kNull) {
    wrong_type(node, path, "a section");
  }
  return node.entries;
}

Reader::Reader(const Node& node, std::string path) : node_(node), path_(std::move(path)) {
  section_entries(node_, path_);
}

const Node* Reader::take(std::string_view key, Need need) {
  known_.emplace_back(key);
  const Node* child = node_.find(key);
  if (child == nullptr && need == kRequired && missing_.empty()) missing_ = key;
  return child;
}

Node Reader::absent_section() const {
  Node section = Node::section();
  section.where = node_.where;
  return section;
}

void Reader::finish() const {
  for (const Node::Entry& entry : node_.entries) {
    if (std::find(known_.begin(), known_.end(), entry.key) != known_.end()) continue;
    const std::string suggestion = did_you_mean(entry.key, known_);
    if (!suggestion.empty())
      throw RecipeError(entry.where, join(path_, entry.key), "unknown key" + suggestion);
    RecipeError error(entry.where, join(path_, entry.key),
                      fmt::format("unknown key; expected one of {}", fmt::join(known_, ", ")));
    error.lost_key = entry.key;
    throw error;
  }
  if (!missing_.empty())
    throw RecipeError(node_.where, join(path_, missing_), "missing; this key is required");
}

}  // namespace detail

std::string describe_fields(const std::vector<Field>& fields) {
  const auto indent_of = [](const Field& field) {
    return 2 * static_cast<size_t>(std::count(field.path.begin(), field.path.end(), '.'));
  };
  std::string out;
  for (const Field& field : fields) {
    const size_t indent = indent_of(field);
    const std::string key = field.path.substr(field.path.rfind('.') + 1);
    std::string head = std::string(indent, ' ') + key + ":";
    if (!field.is_section) head += " " + (field.required ? std::string("<required>") : field.value);
    const std::string type = field.is_section ? "" : fmt::format("({}) ", field.type);
    out += fmt::format("{:<36}  {}{}\n", head, type, field.doc);
  }
  return out;
}

}  // namespace axial::recipe
