// SPDX-License-Identifier: Apache-2.0
// Which value of a recipe an error is about, for the file and line that it is reported with.
#include <algorithm>

#include "axial/core/recipe/convert.h"
#include "axial/core/text/text.h"

namespace axial::recipe {
namespace detail {
namespace {

struct Named {
  Location where;
  std::string path;
};

bool is_override(const Location& where) { return where.source && where.line == 0; }

/// Where the value of a key was given: an override replaces it and leaves the key where the file has it.
const Location& where_of(const Node::Entry& entry) {
  return is_override(entry.value.where) ? entry.value.where : entry.where;
}

/// The value below `section` that `name` ("steps", "rotary.base") means.
std::optional<Named> find_named(const Node& section, const std::string& path, std::string_view name) {
  const Node* node = &section;
  Named named{section.where, path};
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    const std::string_view key = name.substr(begin, end - begin);
    const auto at = std::find_if(node->entries.begin(), node->entries.end(),
                                 [&](const Node::Entry& entry) { return entry.key == key; });
    if (at == node->entries.end()) return std::nullopt;
    node = &at->value;
    named = {where_of(*at), join(named.path, key)};
    begin = end + 1;
  }
  return named;
}

/// The words of `text` that could be keys, without the "[op]" in front.
std::vector<std::string_view> words_of(std::string_view text) {
  static constexpr std::string_view kWord =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.";
  if (text.starts_with('[')) text.remove_prefix(std::min(text.size(), text.find(']')));
  std::vector<std::string_view> words;
  for (size_t at = text.find_first_of(kWord); at < text.size(); at = text.find_first_of(kWord, at)) {
    const size_t end = std::min(text.find_first_not_of(kWord, at), text.size());
    std::string_view word = text.substr(at, end - at);
    while (word.ends_with('.')) word.remove_suffix(1);
    if (!word.empty()) words.push_back(word);
    at = end;
  }
  return words;
}

Node located_at(Node node, const Location& where) {
  node.where = where;
  return node;
}

}  // namespace

RecipeError blamed(const std::string& text, const Node& section, const std::string& path) {
  std::optional<Named> first;
  for (const std::string_view word : words_of(text)) {
    std::optional<Named> named = find_named(section, path, word);
    if (!named) continue;
    const bool given_last = is_override(named->where);
    if (!first || given_last) first = std::move(named);
    if (given_last) break;
  }
  if (!first) return {section.where, path, text};
  return {first->where, first->path, text};
}

void located(const Node& node, const std::string& path, const std::function<void()>& validate) {
  try {
    validate();
  } catch (const RecipeError&) {
    throw;
  } catch (const ValueError& e) {
    // Options made from JSON have no locations: with_locations() looks the field up where there are some.
    if (!node.where.source) throw RecipeError(node.where, path, e.what());
    throw blamed(e.what(), node, path);
  }
}

RecipeError with_far_suggestion(const RecipeError& error, const std::string& path,
                                const std::vector<Field>& fields) {
  for (const Field& field : fields) {
    const size_t dot = field.path.rfind('.');
    if (dot != std::string::npos && field.path.substr(dot + 1) == error.lost_key) {
      return {error.where, error.path,
              fmt::format("unknown key; did you mean '{}'?", join(path, field.path))};
    }
  }
  return error;
}

RecipeError relocated(const RecipeError& error, const Node& section, const std::string& path) {
  if (error.where.source) return error;
  const Node* node = &section;
  Location where = section.where;
  std::string_view rest = error.path;
  if (!path.empty() && rest.substr(0, path.size()) == path) rest.remove_prefix(path.size());
  while (!rest.empty() && node != nullptr) {
    rest.remove_prefix(rest[0] == '.' || rest[0] == '[' ? 1 : 0);
    const std::string_view part = rest.substr(0, rest.find_first_of(".[]"));
    rest.remove_prefix(std::min(rest.size(), part.size()));
    if (!rest.empty() && rest[0] == ']') rest.remove_prefix(1);
    const Node* next = nullptr;
    if (node->kind == Node::Kind::kList) {
      const auto index = integer_of(part);
      if (index && *index >= 0 && *index < static_cast<int64_t>(node->items.size())) {
        next = &node->items[static_cast<size_t>(*index)];
      }
    }
    for (const Node::Entry& entry : node->entries) {
      if (entry.key != part) continue;
      next = &entry.value;
      where = where_of(entry);
    }
    if (next != nullptr && node->kind == Node::Kind::kList) where = next->where;
    node = next;
  }
  const std::string at = error.path.empty() ? path : error.path;
  // A validate() that ran on the JSON form could name its field, but knew no locations.
  if (node != nullptr && error.text.starts_with('[')) return blamed(error.text, located_at(*node, where), at);
  return {where, at, error.text};
}

}  // namespace detail
}  // namespace axial::recipe
