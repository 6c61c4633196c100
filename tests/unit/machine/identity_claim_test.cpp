// Machines of one user beside each other: who gets which identity.
#include "vmm/machine/identity_claim.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>

#include "tests/temp_folder.h"
#include "vmm/machine/identity.h"

namespace minivmm {
namespace {

using testing::HasSubstr;

class IdentityClaims : public testing::Test {
 protected:
  IdentityClaims() { ::setenv("XDG_RUNTIME_DIR", folder_.path().c_str(), 1); }
  ~IdentityClaims() override { ::unsetenv("XDG_RUNTIME_DIR"); }

  static MachineConfig machine(const std::string& name = "") {
    MachineConfig config;
    config.kernel = "/no/such/kernel";
    config.name = name;
    config.virtio.push_back({"net", "null"});
    return config;
  }
  size_t locks() const {
    const auto files = std::filesystem::directory_iterator(folder_.path() / "minivmm");
    return static_cast<size_t>(std::distance(begin(files), end(files)));
  }

  test::TempFolder folder_;
};

TEST_F(IdentityClaims, AMachineAloneHasTheIdentityThatADryRunTells) {
  MachineConfig config = machine();
  const std::string before = machine_identity(config);
  const IdentityClaim claim = claim_identity(config);
  EXPECT_EQ(claim.notice(), "");
  EXPECT_EQ(machine_identity(config), before);
}

TEST_F(IdentityClaims, TheSecondFromOneFileHasAnotherIdentityThatIsTheSameEachTime) {
  MachineConfig first = machine();
  const IdentityClaim held = claim_identity(first);
  std::string second_identity;
  for (int start = 0; start < 2; ++start) {
    MachineConfig second = machine();
    const IdentityClaim claim = claim_identity(second);
    EXPECT_THAT(claim.notice(), HasSubstr("/no/such/kernel"));
    EXPECT_THAT(claim.notice(), HasSubstr("--name"));
    EXPECT_NE(machine_identity(second), machine_identity(first));
    EXPECT_NE(machine_uuid(second), machine_uuid(first));
    if (start == 0) second_identity = machine_identity(second);
    EXPECT_EQ(machine_identity(second), second_identity);
    MachineConfig third = machine();
    const IdentityClaim another = claim_identity(third);
    EXPECT_NE(machine_identity(third), machine_identity(first));
    EXPECT_NE(machine_identity(third), machine_identity(second));
  }
}

TEST_F(IdentityClaims, WhoEndsGivesItsIdentityBack) {
  MachineConfig first = machine();
  {
    const IdentityClaim claim = claim_identity(first);
  }
  EXPECT_EQ(locks(), 0U);
  MachineConfig next = machine();
  const IdentityClaim claim = claim_identity(next);
  EXPECT_EQ(claim.notice(), "");
  EXPECT_EQ(machine_identity(next), machine_identity(first));
}

TEST_F(IdentityClaims, WhatAKilledMachineLeftBehindHoldsNothing) {
  MachineConfig first = machine();
  std::filesystem::path left;
  {
    const IdentityClaim claim = claim_identity(first);
    left = std::filesystem::directory_iterator(folder_.path() / "minivmm")->path();
  }
  std::ofstream(left) << "";
  MachineConfig next = machine();
  const IdentityClaim claim = claim_identity(next);
  EXPECT_EQ(claim.notice(), "");
  EXPECT_EQ(next.instance, 1U);
}

TEST_F(IdentityClaims, ANamedMachineKeepsItsIdentityAndIsToldOfTheOther) {
  MachineConfig first = machine("web");
  const IdentityClaim held = claim_identity(first);
  EXPECT_EQ(held.notice(), "");
  MachineConfig other = machine("db");
  const IdentityClaim others = claim_identity(other);
  EXPECT_EQ(others.notice(), "");
  MachineConfig same = machine("web");
  const IdentityClaim claim = claim_identity(same);
  EXPECT_THAT(claim.notice(), HasSubstr("named web"));
  EXPECT_EQ(machine_identity(same), machine_identity(first));
}

TEST_F(IdentityClaims, AMachineOfWhichAllIsGivenClaimsNothing) {
  const auto given = [] {
    MachineConfig config = machine();
    config.virtio = {{"net", "null,mac=52:54:00:12:34:56"}, {"net", "none"}};
    config.set_uuid("7130c94a-213a-4e5a-8e26-6cce9662f132");
    return config;
  };
  MachineConfig first = given();
  MachineConfig second = given();
  const IdentityClaim held = claim_identity(first);
  const IdentityClaim claim = claim_identity(second);
  EXPECT_EQ(claim.notice(), "");
  EXPECT_EQ(second.instance, 1U);
  MachineConfig third = given();
  third.virtio.push_back({"net", "null"});
  MachineConfig fourth = third;
  const IdentityClaim derives = claim_identity(third);
  EXPECT_NE(claim_identity(fourth).notice(), "") << "the last card's address is derived";
}

TEST_F(IdentityClaims, AHostWithoutAFolderForThemIsNoReasonNotToStart) {
  ::setenv("XDG_RUNTIME_DIR", "/proc/no-such", 1);
  MachineConfig config = machine();
  EXPECT_EQ(claim_identity(config).notice(), "");
  EXPECT_EQ(config.instance, 1U);
}

}  // namespace
}  // namespace minivmm
