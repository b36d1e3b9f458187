// SPDX-License-Identifier: Apache-2.0
// The visitors that fields() of an options struct is called with: reading from a section, writing one,
// listing the keys. Included by recipe.h, which holds what callers use.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "axial/core/recipe/convert.h"
#include "axial/core/recipe/node.h"

namespace axial::recipe {

namespace detail {

/// Visitor that fills a struct from a section; finish() reports unknown keys, then missing ones.
class Reader {
 public:
  Reader(const Node& node, std::string path);
  template <class T>
  void operator()(std::string_view key, T& value, std::string_view /*doc*/, Need need = kOptional) {
    const Node* child = take(key, need);
    if (child != nullptr) {
      read(*child, join(path_, key), value);
    } else if constexpr (Section<T>) {
      read(absent_section(), join(path_, key), value);  // its own required keys and validate() count
    }
  }
  void finish() const;

 private:
  const Node* take(std::string_view key, Need need);
  Node absent_section() const;
  const Node& node_;
  std::string path_;
  std::vector<std::string> known_;
  std::string missing_;
};

/// Visitor that copies a struct into a section.
struct Writer {
  Node node = Node::section();
  template <class T>
  void operator()(std::string_view key, T& value, std::string_view, Need = kOptional) {
    node.set(key, write(value));
  }
};

template <class T>
void read(const Node& node, const std::string& path, T& value) {
  if constexpr (std::is_same_v<T, Node>) {
    value = node;
  } else if constexpr (std::is_same_v<T, nlohmann::json>) {
    value = to_json(node);
  } else if constexpr (std::is_same_v<T, bool>) {
    value = read_bool(node, path);
  } else if constexpr (std::is_enum_v<T>) {
    value = EnumNames<T>::names[read_choice(node, path, choices<T>())].second;
  } else if constexpr (std::is_integral_v<T>) {
    value = static_cast<T>(read_integer(node, path, Limits<T>::kMin, Limits<T>::kMax));
  } else if constexpr (std::is_floating_point_v<T>) {
    value = static_cast<T>(read_number(node, path));
  } else if constexpr (std::is_same_v<T, std::string> || std::is_same_v<T, std::filesystem::path>) {
    value = read_text(node, path);
  } else if constexpr (IsOptional<T>::value) {
    value.reset();
    if (node.kind != Node::Kind::kNull) read(node, path, value.emplace());
  } else if constexpr (IsVector<T>::value) {
    value.clear();
    int64_t index = 0;
    for (const Node& item : list_items(node, path)) {
      typename T::value_type element{};
      read(item, fmt::format("{}[{}]", path, index++), element);
      value.push_back(std::move(element));
    }
  } else if constexpr (IsMap<T>::value) {
    value.clear();
    for (const Node::Entry& entry : section_entries(node, path)) {
      read(entry.value, join(path, entry.key), value[entry.key]);
    }
  } else {
    static_assert(Section<T>, "a field must be a value, a container of values, or a struct with fields()");
    Reader reader(node, path);
    value.fields(reader);
    reader.finish();
    if constexpr (requires { value.validate(); }) {
      located(node, path, [&] { value.validate(); });
    }
  }
}

template <class T>
Node write(const T& value) {
  if constexpr (std::is_same_v<T, Node>) {
    return value;
  } else if constexpr (std::is_same_v<T, nlohmann::json>) {
    return from_json(value);
  } else if constexpr (std::is_same_v<T, bool>) {
    return Node::plain(value ? "true" : "false");
  } else if constexpr (std::is_enum_v<T>) {
    return Node::text(std::string(choice_name(value)));
  } else if constexpr (std::is_integral_v<T>) {
    return Node::plain(fmt::format("{}", value));
  } else if constexpr (std::is_floating_point_v<T>) {
    return Node::plain(number_text(static_cast<double>(value)));
  } else if constexpr (std::is_same_v<T, std::filesystem::path>) {
    return Node::text(value.string());
  } else if constexpr (std::is_same_v<T, std::string>) {
    return Node::text(value);
  } else if constexpr (IsOptional<T>::value) {
    return value ? write(*value) : Node();
  } else if constexpr (IsVector<T>::value) {
    Node node = Node::list();
    for (const auto& item : value) node.items.push_back(write<typename T::value_type>(item));
    return node;
  } else if constexpr (IsMap<T>::value) {
    Node node = Node::section();
    for (const auto& [key, item] : value) node.set(key, write(item));
    return node;
  } else {
    static_assert(Section<T>, "a field must be a value, a container of values, or a struct with fields()");
    T copy = value;  // fields() is not const
    Writer writer;
    copy.fields(writer);
    return std::move(writer.node);
  }
}

/// Visitor that lists the fields of a struct for help and for "did you mean".
struct Describer {
  std::vector<Field>& out;
  std::string path;
  template <class T>
  void operator()(std::string_view key, T& value, std::string_view doc, Need need = kOptional) {
    out.push_back({join(path, key), type_name<T>(), to_flow_yaml(write(value)), std::string(doc),
                   need == kRequired, Section<T>});
    describe_inner(value, join(path, key));
  }
  template <class T>
  void describe_inner(T& value, const std::string& at) {
    if constexpr (Section<T>) {
      Describer inner{out, at};
      value.fields(inner);
    } else if constexpr (IsOptional<T>::value || IsVector<T>::value) {
      typename T::value_type element{};
      describe_inner(element, IsVector<T>::value ? at + "[]" : at);
    } else if constexpr (IsMap<T>::value) {
      typename T::mapped_type element{};
      describe_inner(element, at + ".<name>");
    }
  }
};

}  // namespace detail

}  // namespace axial::recipe
