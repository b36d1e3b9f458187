// SPDX-License-Identifier: Apache-2.0
// Options structs from YAML and back. A struct lists its fields once (`template <class V> void
// fields(V& v)`, see README.md here); from that follow strict parsing with file and line, the resolved
// dump, JSON and the help text. Used by every layer that has options; values live in node.h.
#pragma once

#include <nlohmann/json.hpp>

#include "axial/core/recipe/node.h"
#include "axial/core/recipe/visitors.h"

namespace axial::recipe {

/// The fields of an options struct, nested ones after their section.
template <class T>
std::vector<Field> fields_of(T defaults = {}) {
  std::vector<Field> out;
  detail::Describer describer{out, ""};
  defaults.fields(describer);
  return out;
}

/// Read an options struct, strictly: unknown and duplicate keys, wrong types, missing required keys and
/// what validate() refuses throw RecipeError with location and path. `path` prefixes paths in errors.
template <class T>
T parse(const Node& node, const std::string& path = "") {
  T value{};
  try {
    detail::read(node, path, value);
  } catch (const RecipeError& e) {
    if (e.lost_key.empty()) throw;
    throw detail::with_far_suggestion(e, path, fields_of<T>());
  }
  return value;
}

/// The same from JSON; errors name the path only, unless the call is inside with_locations().
template <class T>
T parse(const nlohmann::json& value, const std::string& path = "") {
  return parse<T>(from_json(value), path);
}

/// Read a recipe file, then overrides (`path=value`) in order.
template <class T>
T parse_file(const std::filesystem::path& file, const std::vector<std::string>& overrides = {}) {
  Node root = load_file(file);
  for (const std::string& assignment : overrides) apply_override(root, assignment);
  return parse<T>(root);
}

/// Run `f`, which reads the JSON form of `section` (a model folder reading its configuration); errors it
/// throws gain the file and line of the value they name. `path` is where `section` stands in the recipe.
template <class F>
decltype(auto) with_locations(const Node& section, const std::string& path, F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (const RecipeError& e) {
    throw detail::relocated(e, section, path);
  } catch (const ValueError& e) {
    throw detail::blamed(e.what(), section, path);
  }
}

/// The resolved options as a tree, as YAML that parses back to equal options, as JSON.
template <class T>
Node to_node(const T& options) {
  return detail::write(options);
}
template <class T>
std::string dump(const T& options) {
  return to_yaml(to_node(options));
}
template <class T>
nlohmann::json options_to_json(const T& options) {
  return to_json(to_node(options));
}

/// Help text: one line per key with type, default and meaning, sections indented.
std::string describe_fields(const std::vector<Field>& fields);
template <class T>
std::string describe(const T& defaults = {}) {
  return describe_fields(fields_of<T>(defaults));
}

}  // namespace axial::recipe
