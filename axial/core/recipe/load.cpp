// SPDX-License-Identifier: Apache-2.0
// YAML text to Node through yaml-cpp's event interface: its own tree keeps no duplicate keys and
// expands aliases without a bound.
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <unordered_set>

#include "axial/core/recipe/node.h"

namespace axial::recipe {
namespace {

class Builder : public YAML::EventHandler {
 public:
  explicit Builder(const std::string& source) : source_(std::make_shared<const std::string>(source)) {}

  Location at(const YAML::Mark& mark) const { return {source_, std::max(mark.line, 0) + 1}; }
  Node take_root() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { add(Node(), mark, anchor); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    Node node = Node::plain(value);
    if (tag == "!" || tag == "tag:yaml.org,2002:str") {
      node.quoted = true;
    } else {
      check_tag(mark, tag);
    }
    if (!node.quoted && is_null_word(value)) node = Node();
    add(std::move(node), mark, anchor);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) throw RecipeError(at(mark), "", "an alias inside the value it names");
    Node copy = found->second.node;
    check_depth(mark, found->second.depth);
    count(mark, found->second.size);
    if (!frames_.empty()) frames_.back().height = std::max(frames_.back().height, found->second.depth);
    place(std::move(copy), mark);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(Node::list(), mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(Node::section(), mark, tag, anchor);
  }
  void OnMapEnd() override {
    if (frames_.back().merges) merge(frames_.back().node);
    close();
  }

 private:
  struct Frame {
    Node node;
    YAML::Mark mark;
    YAML::anchor_t anchor = 0;
    bool has_key = false;  // the next value belongs to the last entry
    bool merges = false;   // has the merge key, which a quoted "<<" is not
    int64_t first_node = 0;
    int64_t height = 0;  // levels below this one
    std::unordered_set<std::string> keys;
  };
  struct Anchored {
    Node node;
    int64_t size = 0;
    int64_t depth = 0;
  };

  void check_tag(const YAML::Mark& mark, const std::string& tag) const {
    static constexpr std::string_view kKnown[] = {"", "?", "!", "tag:yaml.org,2002:map",
                                                  "tag:yaml.org,2002:seq"};
    if (std::find(std::begin(kKnown), std::end(kKnown), tag) == std::end(kKnown)) {
      throw RecipeError(at(mark), "", fmt::format("tag '{}' is not supported in a recipe", tag));
    }
  }
  void check_depth(const YAML::Mark& mark, int64_t below) const {
    if (static_cast<int64_t>(frames_.size()) + below > kMaxDepth) {
      throw RecipeError(at(mark), "", fmt::format("nested deeper than {} levels", kMaxDepth));
    }
  }
  void count(const YAML::Mark& mark, int64_t nodes) {
    nodes_ += nodes;
    if (nodes_ > kMaxNodes) {
      throw RecipeError(at(mark), "", fmt::format("more than {} values, aliases expanded", kMaxNodes));
    }
  }
  void open(Node node, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    check_tag(mark, tag);
    check_depth(mark, 1);
    Frame frame;
    frame.node = std::move(node);
    frame.node.where = at(mark);
    frame.mark = mark;
    frame.anchor = anchor;
    frame.first_node = nodes_;
    count(mark, 1);
    frames_.push_back(std::move(frame));
  }
  void close() {
    Frame frame = std::move(frames_.back());
    frames_.pop_back();
    if (!frames_.empty()) frames_.back().height = std::max(frames_.back().height, frame.height + 1);
    if (frame.anchor != 0) {
      anchors_[frame.anchor] = {frame.node, nodes_ - frame.first_node, frame.height + 1};
    }
    place(std::move(frame.node), frame.mark);
  }
  void add(Node node, const YAML::Mark& mark, YAML::anchor_t anchor) {
    count(mark, 1);
    node.where = at(mark);
    if (anchor != 0) anchors_[anchor] = {node, 1, 0};
    place(std::move(node), mark);
  }
  void place(Node node, const YAML::Mark& mark) {
    if (frames_.empty()) {
      root_ = std::move(node);
      return;
    }
    Frame& frame = frames_.back();
    if (frame.node.kind == Node::Kind::kList) {
      frame.node.items.push_back(std::move(node));
    } else if (frame.has_key) {
      frame.node.entries.back().value = std::move(node);
      frame.has_key = false;
    } else {
      place_key(frame, node, mark);
    }
  }
  void place_key(Frame& frame, const Node& node, const YAML::Mark& mark) {
    if (node.kind != Node::Kind::kScalar) throw RecipeError(at(mark), "", "a key must be a word");
    if (static_cast<int64_t>(node.scalar.size()) > kMaxKeyBytes) {
      throw RecipeError(at(mark), "", fmt::format("a key longer than {} bytes", kMaxKeyBytes));
    }
    if (!frame.keys.insert(node.scalar).second) {
      const auto first = std::find_if(frame.node.entries.begin(), frame.node.entries.end(),
                                      [&](const Node::Entry& entry) { return entry.key == node.scalar; });
      throw RecipeError(at(mark), node.scalar,
                        fmt::format("duplicate key; first given at line {}", first->where.line));
    }
    frame.node.entries.push_back({node.scalar, at(mark), Node()});
    frame.has_key = true;
    frame.merges = frame.merges || (node.scalar == "<<" && !node.quoted);
  }
  /// YAML's merge key: "<<: *base" or "<<: [*a, *b]" adds the keys that are not given directly.
  void merge(Node& section) {
    const auto found = std::find_if(section.entries.begin(), section.entries.end(),
                                    [](const Node::Entry& entry) { return entry.key == "<<"; });
    Node sources = std::move(found->value);
    section.entries.erase(found);
    if (sources.kind == Node::Kind::kSection) {
      Node list = Node::list();
      list.where = sources.where;
      list.items.push_back(std::move(sources));
      sources = std::move(list);
    }
    std::unordered_set<std::string>& keys = frames_.back().keys;
    for (const Node& source : sources.items) {
      if (source.kind != Node::Kind::kSection) sources.kind = Node::Kind::kNull;
    }
    if (sources.kind != Node::Kind::kList) {
      throw RecipeError(sources.where, "<<", "expected a section or a list of sections to merge");
    }
    for (Node& source : sources.items) {
      for (Node::Entry& entry : source.entries) {
        if (keys.insert(entry.key).second) section.entries.push_back(std::move(entry));
      }
    }
  }

  std::shared_ptr<const std::string> source_;
  std::vector<Frame> frames_;
  std::map<YAML::anchor_t, Anchored> anchors_;
  int64_t nodes_ = 0;
  Node root_;
};

}  // namespace

Node load_text(std::string_view text, const std::string& source) {
  Builder builder(source);
  if (static_cast<int64_t>(text.size()) > kMaxBytes) {
    throw RecipeError(builder.at(YAML::Mark::null_mark()), "",
                      fmt::format("expected at most {} bytes, got {}", kMaxBytes, text.size()));
  }
  std::istringstream stream{std::string(text)};
  try {
    YAML::Parser parser(stream);
    parser.HandleNextDocument(builder);
    Node root = builder.take_root();
    if (!root.where.source) root.where = builder.at(YAML::Mark::null_mark());
    Builder second(source);
    if (parser.HandleNextDocument(second)) {
      throw RecipeError(second.take_root().where, "", "expected one YAML document, got a second one");
    }
    return root;
  } catch (const YAML::Exception& e) {
    throw RecipeError(builder.at(e.mark), "", fmt::format("not valid YAML: {}", e.msg));
  }
}

}  // namespace axial::recipe
