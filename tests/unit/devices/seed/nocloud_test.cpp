#include "devices/seed/nocloud.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <thread>

#include "devices/seed/ssh_keys.h"
#include "tests/temp_folder.h"
#include "vmm/core/error.h"

namespace minivmm {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr const char* kKey =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJd2dO2vYkK4gI1XvV3V0wN0iJ3kq0J5xkq1m2e4r6tY me@home";

class NoCloudTest : public testing::Test {
 protected:
  std::string put(const std::string& name, const std::string& text) {
    const std::string path = folder_.path() / name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  // The content of a file on the disk; "(none)" where there is no such.
  static std::string content(const NoCloud& seed, std::string_view name) {
    for (const IsoFile& file : seed.files) {
      if (file.name == name) return file.content;
    }
    return "(none)";
  }
  static NoCloud read(const CloudInitConfig& config) {
    return read_nocloud(config, {.instance_id = "the-id", .hostname = "the-name"});
  }
  template <class Act>
  static std::string error_of(Act act) {
    try {
      act();
      return "";
    } catch (const HostError& e) {
      return e.what();
    }
  }
  static void expect_one_line(const std::string& what, const std::string& part) {
    EXPECT_THAT(what, HasSubstr(part));
    EXPECT_THAT(what, Not(HasSubstr("\n")));
  }

  test::TempFolder folder_;
};

TEST_F(NoCloudTest, UserDataIsHandedOnAsItIs) {
  const std::string text("#cloud-config\r\nusers: []\n\0\xff", 27);
  CloudInitConfig config;
  config.parse(put("user", text));
  const NoCloud seed = read(config);
  EXPECT_EQ(content(seed, "user-data"), text);
  EXPECT_EQ(content(seed, "meta-data"), "instance-id: \"the-id\"\nlocal-hostname: \"the-name\"\n");
  EXPECT_EQ(seed.files.size(), 2U);
  EXPECT_THAT(seed.warnings, IsEmpty());
}

TEST_F(NoCloudTest, EveryOtherFileIsHandedOnToo) {
  CloudInitConfig config;
  config.parse(put("user", "#!/bin/sh\n") + ",meta-data=" + put("meta", "instance-id: x\n") +
               ",network-config=" + put("net", "version: 2\n") +
               ",vendor-data=" + put("vendor", "#!/bin/sh\n"));
  const NoCloud seed = read(config);
  EXPECT_EQ(content(seed, "meta-data"), "instance-id: x\n");
  EXPECT_EQ(content(seed, "network-config"), "version: 2\n");
  EXPECT_EQ(content(seed, "vendor-data"), "#!/bin/sh\n");
}

TEST_F(NoCloudTest, InstanceIdAndHostNameCanBeSaid) {
  CloudInitConfig config;
  config.parse(put("user", "") + ",instance-id=a \"b\",hostname=web-1.example.org");
  EXPECT_EQ(content(read(config), "meta-data"),
            "instance-id: \"a \\\"b\\\"\"\nlocal-hostname: \"web-1.example.org\"\n");
}

TEST_F(NoCloudTest, ACommaInANameIsWrittenTwice) {
  CloudInitConfig config;
  put("a,b", "#cloud-config\n");
  config.parse((folder_.path() / "a,,b").string());
  EXPECT_EQ(content(read(config), "user-data"), "#cloud-config\n");
  expect_one_line(error_of([&] { CloudInitConfig().parse("a,b"); }), "unknown setting 'b'");
}

TEST_F(NoCloudTest, NonsenseIsAUsageError) {
  for (const char* spec : {"", "meta-data=x", "u,meta-data=", "u,hostname=", "u,hostname=-a",
                           "u,hostname=a..b", "u,hostname=a_b", "u,hostname=a-", "u,meta-data=m,hostname=h",
                           "u,meta-data=m,instance-id=i", "u,meta-data=m,meta-data=n"}) {
    EXPECT_THROW(CloudInitConfig().parse(spec), ConfigError) << spec;
  }
  EXPECT_THROW(CloudInitConfig().parse("u,hostname=" + std::string(64, 'a')), ConfigError);
}

TEST_F(NoCloudTest, KeysGoToTheDefaultUserWhateverTheUserData) {
  CloudInitConfig config;
  config.ssh_keys = {put("key.pub", std::string("# mine\n\n") + kKey + "\r\n")};
  EXPECT_TRUE(config.wanted());
  const NoCloud alone = read(config);
  EXPECT_EQ(content(alone, "user-data"), "#cloud-config\n{}\n");
  EXPECT_THAT(content(alone, "meta-data"), HasSubstr(std::string("public-keys:\n  - \"") + kKey + "\"\n"));
  config.parse(put("user", "#!/bin/sh\n"));
  const NoCloud both = read(config);
  EXPECT_EQ(content(both, "user-data"), "#!/bin/sh\n");
  EXPECT_EQ(content(both, "meta-data"), content(alone, "meta-data"));
}

TEST_F(NoCloudTest, KeysAndOwnMetaDataAreRefused) {
  CloudInitConfig config;
  config.parse(put("user", "") + ",meta-data=" + put("meta", ""));
  config.ssh_keys = {put("key.pub", kKey)};
  expect_one_line(error_of([&] { read(config); }), "public-keys");
}

TEST_F(NoCloudTest, AskingForNothingIsNoDisk) {
  EXPECT_FALSE(CloudInitConfig().wanted());
}

TEST_F(NoCloudTest, UserDataThatCloudInitWouldIgnoreIsWarnedOf) {
  const auto warnings = [this](const std::string& text) {
    CloudInitConfig config;
    config.parse(put("user", text));
    return read(config).warnings.size();
  };
  for (const char* known :
       {"", "#cloud-config\n", "#!/bin/sh\n", "## template: jinja\n#cloud-config\n", "#include\nhttp://x\n",
        "Content-Type: multipart/mixed; boundary=x\n", "MIME-Version: 1.0\n",
        "From: me\nContent-Type: text/x-shellscript\n\n", "#cloud-boothook\n", "\x1f\x8b\x08"}) {
    EXPECT_EQ(warnings(known), 0U) << known;
  }
  for (const char* unknown :
       {"users: []\n", " #cloud-config\n", "# cloud-config\n", "\n\nContent-Type: x\n"}) {
    EXPECT_EQ(warnings(unknown), 1U) << unknown;
  }
}

TEST_F(NoCloudTest, WhatCannotBeReadIsOneLine) {
  CloudInitConfig config;
  config.parse((folder_.path() / "missing").string());
  expect_one_line(error_of([&] { read(config); }), "cannot open the user-data");
  config.parse(folder_.path().string());
  expect_one_line(error_of([&] { read(config); }), "Is a directory");
  const std::string user = put("user", "");
  config.parse(user + ",network-config=" + (folder_.path() / "missing").string());
  expect_one_line(error_of([&] { read(config); }), "cannot open the network-config");
}

TEST_F(NoCloudTest, ALargeFileIsRefusedAndNotRead) {
  const std::string path = put("user", "#cloud-config\n");
  std::filesystem::resize_file(path, uint64_t{100} << 20);
  CloudInitConfig config;
  config.parse(path);
  expect_one_line(error_of([&] { read(config); }), "larger than 16 MiB");
  config.parse("/dev/zero");
  expect_one_line(error_of([&] { read(config); }), "larger than 16 MiB");
}

TEST_F(NoCloudTest, APipeIsReadToItsEnd) {
  const std::string path = folder_.path() / "pipe";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  const std::string text = "#cloud-config\n" + std::string(300'000, '#');
  std::thread writer([&] { std::ofstream(path) << text; });
  CloudInitConfig config;
  config.parse(path);
  const NoCloud seed = read(config);
  writer.join();
  EXPECT_EQ(content(seed, "user-data"), text);
}

TEST_F(NoCloudTest, AKeyFileMayHoldSeveralAndOptions) {
  const std::string restricted = std::string("restrict,command=\"ssh-x y\" ") + kKey;
  EXPECT_THAT(read_ssh_keys(put("keys", std::string(kKey) + "\n" + restricted + "\n\t\n")),
              ElementsAre(kKey, restricted));
}

TEST_F(NoCloudTest, WhatIsNoPublicKeyIsRefused) {
  const auto refused = [this](const std::string& text, const std::string& why) {
    const std::string path = put("key", text);
    expect_one_line(error_of([&] { read_ssh_keys(path); }), why);
  };
  refused("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "private key");
  refused("", "holds no key");
  refused("# nothing\n", "holds no key");
  refused("hello\n", "no public SSH key");
  refused("ssh-rsa\n", "no public SSH key");
  refused("myssh-rsa AAAA\n", "no public SSH key");
  refused(std::string(kKey) + "\nhello\n", "no public SSH key");
  refused(std::string("ssh-rsa AAAA\x1b[31m"), "no public SSH key");
  refused(std::string(300'000, '#'), "larger than 256 KiB");
  expect_one_line(error_of([&] { read_ssh_keys(folder_.path() / "missing"); }), "cannot open the SSH key");
}

TEST_F(NoCloudTest, ACommentOfAnyEncodingIsLegalYaml) {
  CloudInitConfig config;
  config.ssh_keys = {put("key.pub", "ssh-rsa AAAAB3 J\xfcrgen \\ \"x\"\n")};
  EXPECT_THAT(content(read(config), "meta-data"), HasSubstr(R"(- "ssh-rsa AAAAB3 J\xfcrgen \\ \"x\"")"));
}

TEST(HostNameFrom, KeepsWhatAHostNameMayHave) {
  EXPECT_EQ(host_name_from("web-1"), "web-1");
  EXPECT_EQ(host_name_from("My VM (2)"), "My-VM-2");
  EXPECT_EQ(host_name_from("debian-12.img"), "debian-12-img");
  EXPECT_EQ(host_name_from("..--"), "minivmm");
  EXPECT_EQ(host_name_from(""), "minivmm");
  EXPECT_EQ(host_name_from("\xc3\xa4"), "minivmm");
  EXPECT_EQ(host_name_from(std::string(100, 'a')), std::string(63, 'a'));
}

}  // namespace
}  // namespace minivmm
