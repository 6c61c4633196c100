// Option values of the form "HEAD,key=value,key=value": --disk, --memory, --net. A doubled comma is a literal
// one.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace minivmm {

class SpecString {
 public:
  // `option` names the option in errors ("--disk"). Throws ConfigError on a repeated key or one not in
  // `known`, where a '*' follows a key that may be repeated.
  SpecString(std::string_view option, std::string_view text, std::initializer_list<std::string_view> known)
      : SpecString(option, text, std::span(known.begin(), known.size())) {}
  SpecString(std::string_view option, std::string_view text, std::span<const std::string_view> known);

  const std::string& head() const { return head_; }  // what stands before the first key=value; may be empty
  std::optional<std::string> get(std::string_view key) const;
  std::vector<std::string> get_all(std::string_view key) const;  // of one that may be repeated, in order
  bool get_switch(std::string_view key,
                  bool fallback) const;  // on|off|true|false|yes|no|1|0, or the bare key
  uint64_t get_size(std::string_view key, uint64_t fallback) const;
  // One of `choices`; throws ConfigError listing them.
  std::string get_choice(std::string_view key, std::initializer_list<std::string_view> choices,
                         std::string_view fallback) const;

 private:
  std::string option_;
  std::string head_;
  std::map<std::string, std::vector<std::string>, std::less<>> values_;
};

// What stands before the first lone comma, unescaped.
std::string spec_head(std::string_view text);

// "512M", "1G", "64k", "4096" (bytes unless `default_unit` says otherwise); powers of 1024. nullopt if it is
// none.
std::optional<uint64_t> parse_size(std::string_view text, uint64_t default_unit = 1);
std::string format_size(uint64_t bytes);  // "1 GiB", "1536 KiB", "17 bytes"

}  // namespace minivmm
