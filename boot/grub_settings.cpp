#include "boot/grub_settings.h"

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

namespace minivmm {

namespace {

constexpr size_t kMaxValue = 4096;  // bytes; more than a kernel takes. Values that double each line end here

bool is_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

// Splits a file into statements of words, as GRUB's lexer does (its manual, "Shell-like scripting").
class Lexer {
 public:
  Lexer(std::string_view text, const GrubSettings& settings) : text_(text), settings_(settings) {}

  // The next statement's words; nullopt at the end. Empty lines give no statement.
  std::optional<std::vector<std::string>> next() {
    std::vector<std::string> words;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '\n' || c == ';') {
        ++at_;
        if (!words.empty()) return words;
      } else if (c == ' ' || c == '\t' || c == '\r') {
        ++at_;
      } else if (c == '#') {
        at_ = std::min(text_.find('\n', at_), text_.size());
      } else {
        words.push_back(word());
      }
    }
    if (words.empty()) return std::nullopt;
    return words;
  }

 private:
  std::string word() {
    std::string out;
    char quote = 0;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (quote == 0 && std::string_view(" \t\r\n;").contains(c)) break;
      ++at_;
      if (quote == '\'') {
        if (c == quote) {
          quote = 0;
        } else {
          out += c;
        }
      } else if (c == '"' || (c == '\'' && quote == 0)) {
        quote = quote == 0 ? c : '\0';
      } else if (c == '\\' && at_ < text_.size()) {
        const char escaped = text_[at_++];
        if (escaped == '\n') continue;  // the line goes on
        // Within "…" a backslash stands for itself except before what it would keep from being special.
        if (quote == '"' && !std::string_view("$\"\\").contains(escaped)) out += c;
        out += escaped;
      } else if (c == '$') {
        out += variable();
      } else {
        out += c;
      }
      if (out.size() > kMaxValue) out.resize(kMaxValue);
    }
    return out;
  }

  std::string_view variable() {
    const bool braces = at_ < text_.size() && text_[at_] == '{';
    if (braces) ++at_;
    const size_t begin = at_;
    while (at_ < text_.size() && is_name(text_[at_])) ++at_;
    const std::string_view name = text_.substr(begin, at_ - begin);
    if (braces && at_ < text_.size() && text_[at_] == '}') ++at_;
    if (name.empty() && !braces) return "$";
    return settings_.get(name);
  }

  std::string_view text_;
  const GrubSettings& settings_;
  size_t at_ = 0;
};

void set(std::string_view assignment, GrubSettings& settings) {
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos || equals == 0) return;
  const std::string_view name = assignment.substr(0, equals);
  if (!std::ranges::all_of(name, is_name)) return;
  settings.variables[std::string(name)] = assignment.substr(equals + 1);
}

}  // namespace

std::string_view GrubSettings::get(std::string_view name) const {
  const auto found = variables.find(name);
  return found == variables.end() ? std::string_view() : std::string_view(found->second);
}

void read_grub_settings(std::string_view text, GrubSettings& settings) {
  constexpr std::array<std::string_view, 6> kOpen{"if", "while", "until", "for", "function", "menuentry"};
  constexpr std::array<std::string_view, 3> kClose{"fi", "done", "}"};
  Lexer lexer(text, settings);
  unsigned depth = 0;
  while (const auto words = lexer.next()) {
    const std::string& first = words->front();
    if (std::ranges::find(kOpen, first) != kOpen.end()) {
      ++depth;
    } else if (std::ranges::find(kClose, first) != kClose.end()) {
      if (depth != 0) --depth;
    } else if (depth != 0) {
      settings.skipped |= std::ranges::find(*words, "set") != words->end();
    } else {
      if (first == "set" && words->size() == 2) set((*words)[1], settings);
      if (words->size() == 1) set(first, settings);  // "name=value" does the same
    }
  }
}

}  // namespace minivmm
