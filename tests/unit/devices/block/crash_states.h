// Every state in which a crash may leave a file, given what was written to it: each sector that was written
// since the last sync holds any one of what it held since then. A sector is written whole or not at all, so
// every subset of the writes is among these states, and every torn write.
#pragma once

#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <span>
#include <string_view>
#include <vector>

#include "tests/unit/devices/block/logged_file.h"

namespace minivmm::test {

class CrashStates {
 public:
  // After event `when` of the log.
  CrashStates(const BlockLog& log, uint64_t when) : base_(log.start()) {
    sizes_.push_back({0, base_.size()});
    uint64_t order = 0;
    for (const BlockLog::Write& write : log.writes()) {
      if (write.begun > when) break;
      ++order;
      const bool kept = log.durable(write, when);
      if (write.resize) {
        resize(order, write.offset, kept);
        continue;
      }
      for (uint64_t at = 0; at < write.bytes.size();) {
        const uint64_t from = (write.offset + at) % kSector;
        const uint64_t length = std::min(kSector - from, write.bytes.size() - at);
        put(order, (write.offset + at) / kSector, from, std::span(write.bytes).subspan(at, length), kept);
        at += length;
      }
    }
    settle();
  }

  // What there is to choose: a number of options each, the first the oldest, the last the newest. A state is
  // one option of each.
  const std::vector<size_t>& choices() const { return choices_; }

  FileBytes state(std::span<const size_t> choice) const {
    FileBytes bytes = base_;
    bytes.resize(sizes_[choice[0]].bytes);  // which may cut it
    bytes.resize(bytes_in(choice));
    for (size_t i = 0; i < sectors_.size(); ++i)
      store(bytes, sectors_[i].number, sectors_[i].options[choice[i + 1]].bytes);
    return bytes;
  }

  // The same for two choices that give the same file, and different otherwise as far as 64 bits go.
  uint64_t key(std::span<const size_t> choice) const {
    if (sizes_[choice[0]].bytes < base_.size()) return key_of(state(choice));
    const uint64_t bytes = bytes_in(choice);
    uint64_t sum = base_key_;
    for (size_t i = 0; i < sectors_.size(); ++i) {
      const Written& sector = sectors_[i];
      sum ^= sector.options[0].key;  // as in the base
      if (sector.number * kSector < bytes) sum ^= sector.options[choice[i + 1]].key;
    }
    return mix(sum + bytes);
  }

 private:
  static constexpr uint64_t kSector = 512;
  using Sector = std::array<std::byte, kSector>;
  struct Option {
    uint64_t order = 0;  // of the write; 0: what was there
    uint64_t end = 0;    // the file reaches to here with it
    Sector bytes{};
    uint64_t key = 0;
  };
  struct Written {
    uint64_t number = 0;
    std::vector<Option> options;
  };
  struct Size {
    uint64_t order = 0;
    uint64_t bytes = 0;
  };

  static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 31) * 0x7fb5d329728ea185;
    x = (x ^ x >> 27) * 0x81dadef4bc2dd44d;
    return x ^ x >> 33;
  }
  static uint64_t key_of(uint64_t number, const Sector& bytes) {
    static constexpr Sector kZeroes{};
    if (bytes == kZeroes) return 0;
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return mix(std::hash<std::string_view>()(text) + mix(number + 1));
  }
  static Sector sector_of(const FileBytes& bytes, uint64_t number) {
    Sector sector{};
    const uint64_t start = number * kSector;
    if (start < bytes.size())
      std::memcpy(sector.data(), bytes.data() + start, std::min<uint64_t>(kSector, bytes.size() - start));
    return sector;
  }
  static void store(FileBytes& bytes, uint64_t number, const Sector& sector) {
    const uint64_t start = number * kSector;
    if (start < bytes.size())
      std::memcpy(bytes.data() + start, sector.data(), std::min<uint64_t>(kSector, bytes.size() - start));
  }
  static uint64_t key_of(const FileBytes& bytes) { return mix(sum_of(bytes) + bytes.size()); }
  static uint64_t sum_of(const FileBytes& bytes) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i * kSector < bytes.size(); ++i) sum ^= key_of(i, sector_of(bytes, i));
    return sum;
  }

  uint64_t bytes_in(std::span<const size_t> choice) const {
    const Size& size = sizes_[choice[0]];
    uint64_t bytes = size.bytes;
    for (size_t i = 0; i < sectors_.size(); ++i) {
      const Option& option = sectors_[i].options[choice[i + 1]];
      if (option.order > size.order) bytes = std::max(bytes, option.end);
    }
    return bytes;
  }

  void resize(uint64_t order, uint64_t bytes, bool kept) {
    if (!kept) {
      sizes_.push_back({order, bytes});
      return;
    }
    sizes_ = {{0, bytes}};
    base_.resize(bytes);
    std::erase_if(written_, [&](const auto& one) { return one.first * kSector >= bytes; });
  }
  void put(uint64_t order, uint64_t number, uint64_t from, std::span<const std::byte> bytes, bool kept) {
    const uint64_t end = number * kSector + from + bytes.size();
    if (kept && base_.size() < end) base_.resize(end);
    if (kept && !written_.contains(number)) {
      std::ranges::copy(bytes, base_.begin() + static_cast<std::ptrdiff_t>(end - bytes.size()));
      return;
    }
    auto& options = written_[number];
    if (options.empty()) options.push_back({0, 0, sector_of(base_, number), 0});
    // Over each that may be there before it: this may be part of a sector.
    for (size_t i = 0, before = options.size(); i < before; ++i) {
      Option with = options[i];
      std::ranges::copy(bytes, with.bytes.begin() + static_cast<std::ptrdiff_t>(from));
      with.order = order;
      with.end = std::max(with.end, end);
      if (kept) {
        options[i] = with;
      } else {
        options.push_back(with);
      }
    }
  }
  // Leaves out what makes no difference.
  void settle() {
    sizes_[0].bytes = base_.size();
    for (auto& [number, all] : written_) {
      std::vector<Option> options;
      for (const Option& option : all) {
        const bool known = std::ranges::any_of(options, [&](const Option& other) {
          return other.bytes == option.bytes &&
                 std::max<uint64_t>(other.end, base_.size()) == std::max<uint64_t>(option.end, base_.size());
        });
        if (!known) options.push_back(option);
      }
      store(base_, number, options[0].bytes);
      if (options.size() == 1 && options[0].end <= base_.size()) continue;
      for (Option& option : options) option.key = key_of(number, option.bytes);
      sectors_.push_back({number, std::move(options)});
    }
    written_.clear();
    base_key_ = sum_of(base_);
    choices_.push_back(sizes_.size());
    for (const Written& sector : sectors_) choices_.push_back(sector.options.size());
  }

  FileBytes base_;
  uint64_t base_key_ = 0;
  std::vector<Size> sizes_;
  std::map<uint64_t, std::vector<Option>> written_;  // while they are collected
  std::vector<Written> sectors_;
  std::vector<size_t> choices_;
};

// Calls `visit` with every combination of choices where there are no more than `most`, and says so. Of more:
// those that differ from the newest of all, or from the oldest of all, in at most two places.
inline bool for_each_choice(const std::vector<size_t>& choices, uint64_t most,
                            const std::function<void(std::span<const size_t>)>& visit) {
  uint64_t count = 1;
  for (const size_t options : choices) count = std::min(count * options, most + 1);
  std::vector<size_t> choice(choices.size(), 0);
  if (count <= most) {
    for (uint64_t n = 0; n < count; ++n) {
      visit(choice);
      for (size_t i = 0; i < choice.size() && ++choice[i] == choices[i]; ++i) choice[i] = 0;
    }
    return true;
  }
  const auto with_others = [&](size_t place, const auto& then) {
    const size_t usual = choice[place];
    for (size_t option = 0; option < choices[place]; ++option) {
      choice[place] = option;
      if (option != usual) then();
    }
    choice[place] = usual;
  };
  for (const bool newest : {true, false}) {
    for (size_t i = 0; i < choice.size(); ++i) choice[i] = newest ? choices[i] - 1 : 0;
    visit(choice);
    for (size_t i = 0; i < choice.size(); ++i) {
      with_others(i, [&] {
        visit(choice);
        for (size_t j = i + 1; j < choice.size(); ++j) with_others(j, [&] { visit(choice); });
      });
    }
  }
  return false;
}

}  // namespace minivmm::test
