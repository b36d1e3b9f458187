// SPDX-License-Identifier: Apache-2.0
// The types a field of an options struct may have, and the untemplated half of reading them.
// Included by recipe.h; options structs need only EnumNames and kRequired from here.
#pragma once

#include <concepts>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "axial/core/recipe/node.h"

namespace axial::recipe {

/// Fourth argument of a field: kRequired makes a recipe without the key an error.
enum Need { kOptional, kRequired };

/// Names of an enum's values, to be specialised beside the enum:
/// template <> struct axial::recipe::EnumNames<Kind> {
///   static constexpr std::pair<std::string_view, Kind> names[] = {{"cosine", Kind::kCosine}, ...};
/// };
template <class E>
struct EnumNames;

/// One key as help shows it.
struct Field {
  std::string path;   ///< "train.steps", "data.sources[].path"
  std::string type;   ///< "integer", "number", "text", "cosine | linear", "list of integer", "section"
  std::string value;  ///< default as one line of YAML
  std::string doc;
  bool required = false;
  bool is_section = false;
};

namespace detail {

struct Probe {
  template <class T>
  void operator()(std::string_view key, T& value, std::string_view doc, Need need = kOptional);
};

/// A struct with fields().
template <class T>
concept Section = std::is_class_v<T> && requires(T& value, Probe& probe) {
  value.fields(probe);
};

template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};
template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};
template <class T>
struct IsMap : std::false_type {};
template <class T>
struct IsMap<std::map<std::string, T>> : std::true_type {};

/// Range of an integer field; uint64_t ends where int64_t does.
template <class T>
struct Limits {
  static constexpr int64_t kMin =
      std::is_signed_v<T> ? static_cast<int64_t>(std::numeric_limits<T>::min()) : 0;
  static constexpr int64_t kMax = sizeof(T) < sizeof(int64_t)
                                      ? static_cast<int64_t>(std::numeric_limits<T>::max())
                                      : std::numeric_limits<int64_t>::max();
};

std::string join(const std::string& path, std::string_view key);

bool read_bool(const Node& node, const std::string& path);
int64_t read_integer(const Node& node, const std::string& path, int64_t min, int64_t max);
double read_number(const Node& node, const std::string& path);
std::string read_text(const Node& node, const std::string& path);
size_t read_choice(const Node& node, const std::string& path, const std::vector<std::string>& choices);
const std::vector<Node>& list_items(const Node& node, const std::string& path);
const std::vector<Node::Entry>& section_entries(const Node& node, const std::string& path);

/// Run a validate(); its errors gain location and path, those of the field they name where one is named.
void located(const Node& node, const std::string& path, const std::function<void()>& validate);
/// An unknown key that stands elsewhere in the recipe: name the full path.
RecipeError with_far_suggestion(const RecipeError& error, const std::string& path,
                                const std::vector<Field>& fields);
/// What validate() said of the options at `path`, with the location of the field that it names: the one
/// that an override gave, being the newest, else the first; the section's where none is given in it.
RecipeError blamed(const std::string& text, const Node& section, const std::string& path);
/// `error` with the location of the deepest value on its path below `section`, which stands at `path`.
RecipeError relocated(const RecipeError& error, const Node& section, const std::string& path);

template <class E>
std::vector<std::string> choices() {
  std::vector<std::string> out;
  for (const auto& [name, value] : EnumNames<E>::names) out.emplace_back(name);
  return out;
}
template <class E>
std::string_view choice_name(E wanted) {
  for (const auto& [name, value] : EnumNames<E>::names) {
    if (value == wanted) return name;
  }
  axial::fail("recipe", "an enum value without a name: {}", static_cast<int64_t>(wanted));
}

template <class T>
std::string type_name() {
  if constexpr (std::is_same_v<T, bool>) {
    return "true | false";
  } else if constexpr (std::is_enum_v<T>) {
    return fmt::format("{}", fmt::join(choices<T>(), " | "));
  } else if constexpr (std::is_integral_v<T>) {
    return "integer";
  } else if constexpr (std::is_floating_point_v<T>) {
    return "number";
  } else if constexpr (IsOptional<T>::value) {
    return type_name<typename T::value_type>() + " | null";
  } else if constexpr (IsVector<T>::value) {
    return "list of " + type_name<typename T::value_type>();
  } else if constexpr (IsMap<T>::value) {
    return "names to " + type_name<typename T::mapped_type>();
  } else if constexpr (std::is_same_v<T, Node> || std::is_same_v<T, nlohmann::json>) {
    return "any";
  } else {
    return Section<T> ? "section" : "text";
  }
}

template <class T>
void read(const Node& node, const std::string& path, T& value);
template <class T>
Node write(const T& value);

}  // namespace detail

/// Name of an enum value, as recipes write it.
template <class E>
std::string_view name_of_choice(E value) {
  return detail::choice_name(value);
}

}  // namespace axial::recipe
