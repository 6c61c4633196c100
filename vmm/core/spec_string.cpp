#include "vmm/core/spec_string.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <ranges>
#include <utility>
#include <vector>

#include "vmm/core/error.h"

namespace minivmm {

namespace {

std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> parts(1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != ',') {
      parts.back() += text[i];
    } else if (i + 1 < text.size() && text[i + 1] == ',') {
      parts.back() += ',';
      ++i;
    } else {
      parts.emplace_back();
    }
  }
  return parts;
}

bool is_repeatable(std::string_view known) {
  return known.ends_with('*');
}
std::string_view name_of(std::string_view known) {
  return known.substr(0, known.size() - (is_repeatable(known) ? 1 : 0));
}

}  // namespace

std::string spec_head(std::string_view text) {
  return std::move(split(text).front());
}

SpecString::SpecString(std::string_view option, std::string_view text,
                       std::span<const std::string_view> known)
    : option_(option) {
  bool first = true;
  for (std::string& part : split(text)) {
    const size_t equals = part.find('=');
    std::string key = part.substr(0, equals);
    const auto found = std::ranges::find(known, key, name_of);
    const bool is_known = found != known.end();
    if (std::exchange(first, false) && !is_known) {  // a path may hold an equals sign of its own
      head_ = std::move(part);
      continue;
    }
    if (!is_known) {
      throw ConfigError(fmt::format("{} {}: unknown setting '{}'; known are {}", option, text, key,
                                    fmt::join(known | std::views::transform(name_of), ", ")));
    }
    std::string setting = equals == std::string::npos ? "on" : part.substr(equals + 1);
    auto& settings = values_[key];
    if (!settings.empty() && !is_repeatable(*found)) {
      throw ConfigError(fmt::format("{} {}: '{}' is given twice", option, text, key));
    }
    settings.push_back(std::move(setting));
  }
}

std::optional<std::string> SpecString::get(std::string_view key) const {
  const auto found = values_.find(key);
  if (found == values_.end()) return std::nullopt;
  return found->second.front();
}

std::vector<std::string> SpecString::get_all(std::string_view key) const {
  const auto found = values_.find(key);
  if (found == values_.end()) return {};
  return found->second;
}

bool SpecString::get_switch(std::string_view key, bool fallback) const {
  const auto text = get(key);
  if (!text) return fallback;
  if (*text == "on" || *text == "true" || *text == "yes" || *text == "1") return true;
  if (*text == "off" || *text == "false" || *text == "no" || *text == "0") return false;
  throw ConfigError(fmt::format("{} {}={}: neither on nor off", option_, key, *text));
}

uint64_t SpecString::get_size(std::string_view key, uint64_t fallback) const {
  const auto text = get(key);
  if (!text) return fallback;
  const auto size = parse_size(*text);
  if (!size)
    throw ConfigError(fmt::format("{} {}={}: not a size; write 4096, 64K, 512M or 2G", option_, key, *text));
  return *size;
}

std::string SpecString::get_choice(std::string_view key, std::initializer_list<std::string_view> choices,
                                   std::string_view fallback) const {
  const auto text = get(key);
  if (!text) return std::string(fallback);
  if (std::ranges::find(choices, *text) == choices.end()) {
    throw ConfigError(
        fmt::format("{} {}={}: choose one of {}", option_, key, *text, fmt::join(choices, ", ")));
  }
  return *text;
}

std::optional<uint64_t> parse_size(std::string_view text, uint64_t default_unit) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{}) return std::nullopt;
  std::string_view unit = text.substr(static_cast<size_t>(end - text.data()));
  uint64_t scale = default_unit;
  if (!unit.empty()) {
    switch (unit[0]) {
      case 'b':
      case 'B': scale = 1; break;
      case 'k':
      case 'K': scale = uint64_t{1} << 10; break;
      case 'm':
      case 'M': scale = uint64_t{1} << 20; break;
      case 'g':
      case 'G': scale = uint64_t{1} << 30; break;
      case 't':
      case 'T': scale = uint64_t{1} << 40; break;
      default: return std::nullopt;
    }
    unit.remove_prefix(1);
    if (!unit.empty() && unit != "iB" && unit != "ib" && unit != "i" && unit != "B") return std::nullopt;
  }
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(number, scale, &bytes)) return std::nullopt;
  return bytes;
}

std::string format_size(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (unit < 4 && bytes >= 1024 && bytes % 1024 == 0) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{} {}", bytes, kUnits[unit]);
}

}  // namespace minivmm
