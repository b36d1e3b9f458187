// SPDX-License-Identifier: Apache-2.0
// The tree itself: construction, look-up, overrides, error text.
#include "axial/core/recipe/node.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "axial/core/file/file.h"

namespace axial::recipe {
namespace {

std::string message(const Location& where, const std::string& path, const std::string& text) {
  std::string out = where.text();
  for (const std::string* part : {&path, &text}) {
    if (part->empty()) continue;
    if (!out.empty()) out += ": ";
    out += *part;
  }
  return out;
}

std::vector<std::string> split_path(std::string_view path) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t dot = path.find('.'); dot != std::string_view::npos; dot = path.find('.', begin)) {
    parts.emplace_back(path.substr(begin, dot - begin));
    begin = dot + 1;
  }
  parts.emplace_back(path.substr(begin));
  return parts;
}

/// Step into `node` by one part of an override's path, making sections that are missing.
Node& descend(Node& node, const std::string& part, const Location& where, const std::string& path) {
  if (node.kind == Node::Kind::kNull) {
    node = Node::section();
    node.where = where;
  }
  if (node.kind == Node::Kind::kList) {
    size_t index = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index = error == std::errc() && end == part.data() + part.size();
    if (!is_index || index >= node.items.size()) {
      throw RecipeError(where, path,
                        fmt::format("expected an index from 0 to {} into a list, got '{}'",
                                    static_cast<int64_t>(node.items.size()) - 1, part));
    }
    return node.items[index];
  }
  if (node.kind != Node::Kind::kSection) {
    throw RecipeError(where, path, fmt::format("'{}' is below a value that is not a section", part));
  }
  if (Node* child = node.find(part)) return *child;
  Node& child = node.set(part, Node());
  node.entries.back().where = where;
  child.where = where;
  return child;
}

/// "--set path=value"; without a value that is long or has several lines, errors being one line.
std::string override_name(std::string_view assignment) {
  constexpr size_t kLongest = 80;
  const auto fits = [](std::string_view text) {
    return text.size() <= kLongest &&
           std::none_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
  };
  const std::string_view path = assignment.substr(0, assignment.find('='));
  if (path.size() == assignment.size() || !fits(path)) return "--set";
  return fmt::format("--set {}", fits(assignment) ? assignment : path);
}

/// A value of the command line has no lines.
void move_to(Node& node, const Location& where) {
  node.where = where;
  for (Node& item : node.items) move_to(item, where);
  for (Node::Entry& entry : node.entries) {
    entry.where = where;
    move_to(entry.value, where);
  }
}

}  // namespace

std::string Location::text() const {
  if (!source) return "";
  return line > 0 ? fmt::format("{}:{}", *source, line) : *source;
}

RecipeError::RecipeError(Location where_in, std::string path_in, std::string text_in)
    : ValueError(message(where_in, path_in, text_in)),
      where(std::move(where_in)),
      path(std::move(path_in)),
      text(std::move(text_in)) {}

Node Node::section() {
  Node node;
  node.kind = Kind::kSection;
  return node;
}

Node Node::list() {
  Node node;
  node.kind = Kind::kList;
  return node;
}

Node Node::text(std::string value) {
  Node node = plain(std::move(value));
  node.quoted = true;
  return node;
}

Node Node::plain(std::string value) {
  Node node;
  node.kind = Kind::kScalar;
  node.scalar = std::move(value);
  return node;
}

const Node* Node::find(std::string_view key) const {
  for (const Entry& entry : entries) {
    if (entry.key == key) return &entry.value;
  }
  return nullptr;
}

Node* Node::find(std::string_view key) { return const_cast<Node*>(std::as_const(*this).find(key)); }

Node& Node::set(std::string_view key, Node value) {
  if (Node* old = find(key)) return *old = std::move(value);
  entries.push_back({std::string(key), value.where, std::move(value)});
  return entries.back().value;
}

Node load_file(const std::filesystem::path& path) {
  Node root = load_text(read_file(path), path.string());
  if (root.kind == Node::Kind::kNull) {
    const Location where = root.where;
    root = Node::section();
    root.where = where;
  }
  if (root.kind != Node::Kind::kSection) {
    throw RecipeError(root.where, "", "expected keys and values at the top of a recipe");
  }
  return root;
}

void apply_override(Node& root, std::string_view assignment) {
  const Location where{std::make_shared<const std::string>(override_name(assignment)), 0};
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    throw RecipeError(where, "", fmt::format("expected path=value, got '{}'", assignment));
  }
  const std::string path(assignment.substr(0, equals));
  const std::vector<std::string> parts = split_path(path);
  if (static_cast<int64_t>(parts.size()) > kMaxDepth) {
    throw RecipeError(where, "", fmt::format("a path has at most {} parts", kMaxDepth));
  }
  Node* node = &root;
  for (const std::string& part : parts) {
    if (part.empty() || static_cast<int64_t>(part.size()) > kMaxKeyBytes) {
      throw RecipeError(where, "", fmt::format("'{}' is not a path of keys joined by dots", path));
    }
    node = &descend(*node, part, where, path);
  }
  try {
    *node = load_text(assignment.substr(equals + 1), *where.source);
    move_to(*node, where);
  } catch (const RecipeError& e) {
    throw RecipeError(where, path, e.text);
  }
}

}  // namespace axial::recipe
