// Whole machines running tiny guests, on whatever /dev/kvm this host has. Real kernels are for the rig.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>
#include <thread>

#include "tests/temp_folder.h"
#include "tests/unit/boot/flatcar_disk.h"
#include "vmm/core/error.h"
#include "vmm/core/fd.h"
#include "vmm/machine/machine.h"

namespace minivmm {
namespace {

constexpr const char* kPayloads = MINIVMM_PAYLOADS;

// Keeps what the guest writes, and says when the first of it has come.
class Recorder final : public SerialBackend {
 public:
  void connect(SerialPort*) override {}
  size_t write(std::span<const std::byte> data) override {
    const std::scoped_lock lock(mutex_);
    text_.append(reinterpret_cast<const char*>(data.data()), data.size());
    spoke_.store(true);
    spoke_.notify_all();
    return data.size();
  }
  void resume_input() override {}
  void flush() override {}
  std::string text() {
    const std::scoped_lock lock(mutex_);
    return text_;
  }
  void wait_spoken() { spoke_.wait(false); }

 private:
  std::mutex mutex_;
  std::string text_;
  std::atomic<bool> spoke_{false};
};

// The machine owns its back end; the test keeps the recorder.
class Forward final : public SerialBackend {
 public:
  explicit Forward(Recorder& to) : to_(to) {}
  void connect(SerialPort* port) override { to_.connect(port); }
  size_t write(std::span<const std::byte> data) override { return to_.write(data); }
  void resume_input() override {}
  void flush() override {}

 private:
  Recorder& to_;
};

class Payload : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0)
      GTEST_SKIP() << "no access to /dev/kvm: tools/rig runs this test anywhere";
  }
  std::unique_ptr<Machine> machine(const std::string& payload, MachineConfig config = small()) {
    config.kernel = std::string(kPayloads) + "/" + payload;
    return Machine::create(
        std::move(config), log_,
        {.serial = [this](EventLoop&, Log&) { return std::make_unique<Forward>(out_); }, .notice = {}});
  }
  static MachineConfig small() {
    MachineConfig config;
    config.memory = uint64_t{32} << 20;
    config.cmdline = "";
    return config;
  }

  Log log_;
  Recorder out_;
};

TEST_F(Payload, WritesToTheSerialPortAndPowersOff) {
  auto vm = machine("hello");
  EXPECT_EQ(vm->run().reason, MachineEnd::Reason::powered_off);
  EXPECT_EQ(out_.text(), "ok\n");
}

TEST_F(Payload, ReadsAFwCfgFileByPortAndByDma) {
  MachineConfig config = small();
  config.add_fw_cfg("name=opt/org.example/file,string=file");
  auto vm = machine("fw_cfg", config);
  EXPECT_EQ(vm->run().reason, MachineEnd::Reason::powered_off);
  EXPECT_EQ(out_.text(), "QEMU0file\n");
}

TEST_F(Payload, RunsWithMemoryOnBothSidesOfTheHole) {
  MachineConfig config = small();
  config.memory = uint64_t{6} << 30;
  EXPECT_EQ(machine("hello", config)->run().reason, MachineEnd::Reason::powered_off);
}

TEST_F(Payload, RunsInSharedPrefaultedMemory) {
  MachineConfig config = small();
  config.memory_options = {.shared = true, .prefault = true};
  EXPECT_EQ(machine("hello", config)->run().reason, MachineEnd::Reason::powered_off);
}

TEST_F(Payload, IsResetByAcpiKeyboardControllerTripleFaultAndResetVectorWithItsRamKept) {
  auto vm = machine("reset");
  EXPECT_EQ(vm->run().reason, MachineEnd::Reason::powered_off);
  EXPECT_EQ(out_.text(), "01234\n");
  EXPECT_EQ(vm->stats().resets, 4U);
}

TEST_F(Payload, FindsSmbiosAndFindsItAgainAfterAResetThatFollowsItsLoss) {
  auto vm = machine("smbios");
  EXPECT_EQ(vm->run().reason, MachineEnd::Reason::powered_off);
  EXPECT_EQ(out_.text(), "_SM3__SM3_\n");
}

// The slot to be tried has two tries: the first two boots are its, the third is the other's.
TEST_F(Payload, AFlatcarDiskIsLookedIntoAtEachBoot) {
  const auto payload = [](const char* name) {
    std::ostringstream out;
    out << std::ifstream(std::string(kPayloads) + "/" + name, std::ios::binary).rdbuf();
    return out.str();
  };
  const auto disk = testing::make_flatcar_disk({.b = {.priority = 2, .tries = 2},
                                                .kernel_a = payload("hello"),
                                                .kernel_b = payload("reset"),
                                                .efi_clusters = 4096});
  const test::TempFolder folder;
  const std::string path = folder.path() / "flatcar.img";
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(disk.data()), static_cast<std::streamsize>(disk.size()));
  MachineConfig config = small();
  config.cmdline.reset();
  config.virtio.push_back({"blk", path});
  auto vm = Machine::create(
      config, log_,
      {.serial = [this](EventLoop&, Log&) { return std::make_unique<Forward>(out_); }, .notice = {}});
  EXPECT_EQ(vm->run().reason, MachineEnd::Reason::powered_off);
  EXPECT_EQ(out_.text(), "01ok\n");
}

TEST_F(Payload, AResetEndsAMachineThatMayNotReboot) {
  MachineConfig config = small();
  config.reboot = false;
  EXPECT_EQ(machine("reset", config)->run().reason, MachineEnd::Reason::rebooted);
  EXPECT_EQ(out_.text(), "0");
}

TEST_F(Payload, ThatRunsIntoNowhereEndsWithRegistersAndAnExplanation) {
  const MachineEnd end = machine("wild")->run();
  EXPECT_EQ(end.reason, MachineEnd::Reason::failed);
  EXPECT_NE(end.message.find("rip 00000000d0000000"), std::string::npos) << end.message;
  EXPECT_NE(end.message.find("KVM_EXIT_INTERNAL_ERROR"), std::string::npos) << end.message;
}

TEST_F(Payload, StartsItsSecondCpuByInitAndSipi) {
  MachineConfig config = small();
  config.cpus = 2;
  EXPECT_EQ(machine("smp", config)->run().reason, MachineEnd::Reason::powered_off);
  EXPECT_EQ(out_.text(), "2\n");
}

TEST_F(Payload, ThatNeverExitsIsPausedResumedAndStopped) {
  MachineConfig config = small();
  config.cpus = 2;
  auto vm = machine("spin", config);
  std::thread other([&] {
    out_.wait_spoken();
    for (int i = 0; i < 50; ++i) {
      vm->pause();
      vm->resume();
    }
    vm->stop();
  });
  EXPECT_EQ(vm->run().reason, MachineEnd::Reason::stopped);
  other.join();
}

TEST_F(Payload, SpinningIsResetFromOutsideWhilePausedAndNot) {
  auto vm = machine("spin");
  std::thread other([&] {
    out_.wait_spoken();
    for (int i = 0; i < 5; ++i) {
      vm->reset();
      vm->pause();
      vm->reset();
      vm->resume();
    }
    vm->stop();
  });
  EXPECT_EQ(vm->run().reason, MachineEnd::Reason::stopped);
  other.join();
}

TEST_F(Payload, ManyMachinesLiveInOneProcess) {
  std::vector<std::thread> threads;
  std::atomic<int> good = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 3; ++n) good += machine("hello")->run().reason == MachineEnd::Reason::powered_off;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(good, 12);
}

TEST_F(Payload, ADestroyedMachineLeavesNoDescriptorsBehind) {
  auto count = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                         std::filesystem::directory_iterator());
  };
  machine("hello")->run();
  const auto before = count();
  for (int i = 0; i < 5; ++i) machine("hello")->run();
  EXPECT_EQ(count(), before);
}

TEST_F(Payload, MoreCpusThanKvmAllowsAreRefused) {
  MachineConfig config = small();
  config.cpus = 255;
  EXPECT_THROW(machine("hello", config), ConfigError);
}

}  // namespace
}  // namespace minivmm
