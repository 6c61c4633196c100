// The fixture that runs a test against every registered device type over each transport.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "tests/conformance/fake_guest.h"
#include "tests/unit/virtio/vhost_back_end.h"
#include "virtio/device/fs.h"
#include "virtio/registry.h"

namespace minivmm::test {

// Those that need no more of a host than a folder.
inline const std::vector<const VirtioDeviceType*>& device_types() {
  static const std::vector<const VirtioDeviceType*> types = [] {
    std::vector<const VirtioDeviceType*> out;
    for (const VirtioDeviceType& type : virtio_device_types()) {
      if (type.example_spec != nullptr) out.push_back(&type);
    }
    return out;
  }();
  return types;
}

// In a device type's place: the shared folder, with a server of the test's. That is who walks its rings, so
// only what comes before is a test of ours.
inline constexpr size_t kSharedFolder = ~size_t{0};

class EveryDevice : public testing::TestWithParam<std::tuple<size_t, TransportKind>> {
 protected:
  bool shared_folder() const { return std::get<0>(GetParam()) == kSharedFolder; }
  const VirtioDeviceType& type() const { return *device_types()[std::get<0>(GetParam())]; }
  TransportKind transport_kind() const { return std::get<1>(GetParam()); }
  bool pci() const { return transport_kind() == TransportKind::pci; }

  std::unique_ptr<VirtioDevice> make_device(unsigned index = 0) {
    if (shared_folder()) return make_shared_folder(index);
    const auto folder = folder_.path() / std::to_string(devices_made_++);  // no two share a disk
    std::filesystem::create_directory(folder);
    return type().create(type().example_spec(folder),
                         {.index = index, .cpus = 2, .log = log_, .time = time_});
  }
  std::unique_ptr<FakeGuest> make_guest() {
    return std::make_unique<FakeGuest>(transport_kind(), make_device(), log_, shared_folder());
  }
  // A guest whose device runs.
  std::unique_ptr<FakeGuest> running_guest() {
    auto guest = make_guest();
    guest->bring_up();
    return guest;
  }
  // For what holds for each queue that answers at once: `check` gets a guest that has just come up, with that
  // queue as its main one.
  template <class Check>
  void on_each_queue(Check check, uint64_t without = 0) {
    auto guest = make_guest();
    for (uint16_t queue = 0; queue < guest->sizes.size(); ++queue) {
      if (guest->receives(queue)) continue;
      SCOPED_TRACE(testing::Message() << "queue " << queue);
      guest->main = queue;
      guest->bring_up(without);
      check(guest.get());
      if (HasFatalFailure()) return;
    }
  }
  // What must hold after any hostile act: a reset and a new start make the device work.
  static void expect_recovers(FakeGuest& guest) {
    guest.bring_up();
    EXPECT_TRUE(guest.alive());
  }
  unsigned faults() const { return faults_.load(); }

 private:
  std::unique_ptr<VirtioDevice> make_shared_folder(unsigned index) {
    auto [ours, theirs] = socket_pair();
    servers_.push_back(std::make_unique<FakeBackEnd>(std::move(theirs), FakeBackEnd::good()));
    return std::make_unique<VirtioFs>(std::move(ours), VirtioFs::Options{.index = index, .tag = "shared"},
                                      log_);
  }

  TempFolder folder_;
  std::vector<std::unique_ptr<FakeBackEnd>> servers_;
  unsigned devices_made_ = 0;
  std::atomic<unsigned> faults_{0};
  ManualTime time_;

 protected:
  Log log_{LogLevel::debug, [this](LogLevel, std::string_view) { ++faults_; }};
};

inline std::string every_device_name(const testing::TestParamInfo<std::tuple<size_t, TransportKind>>& info) {
  const size_t type = std::get<0>(info.param);
  return (type == kSharedFolder ? "fs" : std::string(device_types()[type]->name)) +
         (std::get<1>(info.param) == TransportKind::pci ? "_pci" : "_mmio");
}

// NOLINTNEXTLINE(cppcoreguidelines-macro-usage): gtest wants the suite's name in each file
#define MV_FOR_EVERY_DEVICE(suite)                                                        \
  INSTANTIATE_TEST_SUITE_P(                                                               \
      Registry, suite,                                                                    \
      testing::Combine(testing::Range(size_t{0}, ::minivmm::test::device_types().size()), \
                       testing::Values(TransportKind::pci, TransportKind::mmio)),         \
      every_device_name)

}  // namespace minivmm::test
