// SPDX-License-Identifier: Apache-2.0
// A YAML document as a small tree that remembers file and line, loaded strictly: duplicate keys, unknown
// tags, cycles, and documents too large or too deep are errors. recipe.h turns it into options structs;
// `train` and `cli` load recipes through it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "axial/core/check/check.h"

namespace axial::recipe {

/// Where a value was written: "file:line", "--set path=value", or "" for values made by a program.
struct Location {
  std::shared_ptr<const std::string> source;
  int line = 0;  ///< from 1; 0 when the source has no lines
  std::string text() const;
};

/// A fault in a recipe: `file:line: train.stepz: unknown key; did you mean 'steps'?`.
class RecipeError : public ValueError {
 public:
  RecipeError(Location where, std::string path, std::string text);
  Location where;
  std::string path;           ///< of the value at fault, as in "data.sources[1].path"; may be empty
  std::string text;           ///< the fault without location and path
  std::string lost_key = {};  ///< the unknown key, when that is the fault and no sibling is near
};

/// One value of a document.
struct Node {
  enum class Kind { kNull, kScalar, kList, kSection };
  struct Entry;

  Kind kind = Kind::kNull;
  std::string scalar;          ///< text of a kScalar
  bool quoted = false;         ///< a kScalar that is text whatever it looks like
  std::vector<Node> items;     ///< of a kList
  std::vector<Entry> entries;  ///< of a kSection, in the order of the document
  Location where;

  static Node section();
  static Node list();
  static Node text(std::string value);
  /// A plain scalar: its type follows from its text ("12", "0.5", "true").
  static Node plain(std::string value);

  /// The value under `key` of a section, or null.
  const Node* find(std::string_view key) const;
  Node* find(std::string_view key);
  /// Set or replace `key` of a section.
  Node& set(std::string_view key, Node value);
};

struct Node::Entry {
  std::string key;
  Location where;  ///< of the key
  Node value;
};

/// Bounds of a document; beyond them loading fails with an error that names the bound.
inline constexpr int64_t kMaxBytes = 4 << 20;
inline constexpr int64_t kMaxNodes = 100'000;  ///< after aliases are expanded
inline constexpr int64_t kMaxDepth = 64;
inline constexpr int64_t kMaxKeyBytes = 256;

/// Load a YAML file; the root is a section (an empty file is an empty one). Throws IoError or RecipeError.
Node load_file(const std::filesystem::path& path);
/// Load YAML text; `source` names it in errors. The root may be any value.
Node load_text(std::string_view text, const std::string& source);

/// Apply `path=value` (as in "train.steps=100", "data.sources.0.path=x", "mesh=[2, 4]"), the value being
/// YAML. Missing sections are made: parsing the tree then reports paths that do not exist.
void apply_override(Node& root, std::string_view assignment);

/// YAML text that loads as an equal tree.
std::string to_yaml(const Node& node);
/// The same on one line.
std::string to_flow_yaml(const Node& node);
/// Plain scalars become null, booleans, integers, numbers or text. Throws RecipeError for an integer
/// beyond 64 bits.
nlohmann::json to_json(const Node& node);
/// A tree without locations.
Node from_json(const nlohmann::json& value);

/// Meaning of a plain scalar, by YAML's core schema with '_' allowed between digits of integers.
bool is_null_word(std::string_view text);
std::optional<bool> bool_of(std::string_view text);
std::optional<int64_t> integer_of(std::string_view text);  ///< nothing too when beyond 64 bits
bool looks_like_integer(std::string_view text);
std::optional<double> number_of(std::string_view text);  ///< integers included; ".inf" and ".nan" too
/// Shortest text that reads back as the same double, never looking like an integer.
std::string number_text(double value);

}  // namespace axial::recipe
