#include "vmm/core/stable_uuid.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <set>

#include "tests/temp_folder.h"

namespace minivmm {
namespace {

constexpr const char* kMachineId = "0123456789abcdef0123456789abcdef";

void put(const std::filesystem::path& file, std::string_view text) {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file) << text;
}

TEST(Uuid, ItsTextIsReadBackInEitherCase) {
  const auto uuid = parse_uuid("7130C94a-213a-4e5a-8e26-6cce9662F132");
  ASSERT_TRUE(uuid);
  EXPECT_EQ(uuid->front(), 0x71);
  EXPECT_EQ(uuid->back(), 0x32);
  EXPECT_EQ(uuid_text(*uuid), "7130c94a-213a-4e5a-8e26-6cce9662f132");
}

TEST(Uuid, NoOtherFormIsOne) {
  for (const char* text : {"", "7130c94a213a4e5a8e266cce9662f132", "{7130c94a-213a-4e5a-8e26-6cce9662f132}",
                           "7130c94a-213a-4e5a-8e26-6cce9662f13", "7130c94a-213a-4e5a-8e26-6cce9662f132a",
                           "7130c94g-213a-4e5a-8e26-6cce9662f132", "7130c94a-213a-4e5a-8e266-cce9662f132",
                           "-130c94a-213a-4e5a-8e26-6cce9662f132", "7130c94a+213a-4e5a-8e26-6cce9662f132",
                           "+130c94a-213a-4e5a-8e26-6cce9662f132", "0x30c94a-213a-4e5a-8e26-6cce9662f132"}) {
    EXPECT_FALSE(parse_uuid(text)) << text;
  }
}

// A release that derives another one changes the identity of everybody's machines. The value is that of
// Python's uuid.uuid5.
TEST(StableUuid, TheSameInputsGiveTheSameForEver) {
  EXPECT_EQ(uuid_text(stable_uuid(kMachineId, 1000, "web")), "ca1cdb7e-b383-56cf-8498-af562c7be7c1");
}

TEST(StableUuid, AnyOtherInputGivesAnother) {
  std::set<std::string> ids;
  for (const char* host : {kMachineId, "1123456789abcdef0123456789abcdef", "", "1"}) {
    for (const uint32_t user : {0U, 1U, 1000U}) {
      for (const char* name : {"", "web", "web0", "0web", "3:web"}) {
        ids.insert(uuid_text(stable_uuid(host, user, name)));
      }
    }
  }
  EXPECT_EQ(ids.size(), 4U * 3U * 5U);
}

TEST(StableUuid, OfThisHostIsTheSameTwice) {
  EXPECT_EQ(stable_uuid("web"), stable_uuid("web"));
  EXPECT_NE(stable_uuid("web"), stable_uuid("db"));
}

TEST(HostIdentity, IsTheMachineId) {
  const test::TempFolder root;
  put(root.path() / "etc/machine-id", std::string(kMachineId) + "\n");
  EXPECT_EQ(host_identity(root.path()), kMachineId);
}

TEST(HostIdentity, IsThatOfDBusWhereThereIsNoOther) {
  const test::TempFolder root;
  put(root.path() / "etc/machine-id", "uninitialized\n");
  put(root.path() / "var/lib/dbus/machine-id", std::string(kMachineId) + "\n");
  EXPECT_EQ(host_identity(root.path()), kMachineId);
}

TEST(HostIdentity, IsTheHostsNameWhereThereIsNoMachineId) {
  const test::TempFolder root;
  std::array<char, 256> name{};
  ASSERT_EQ(::gethostname(name.data(), name.size() - 1), 0);
  EXPECT_EQ(host_identity(root.path()), name.data());
  for (const char* content : {"", "\n", "uninitialized\n", "0123\n", "0123456789ABCDEF0123456789ABCDEF\n"}) {
    put(root.path() / "etc/machine-id", content);
    EXPECT_EQ(host_identity(root.path()), name.data()) << content;
  }
}

}  // namespace
}  // namespace minivmm
