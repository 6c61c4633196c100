// nbds://: a server that proves by a certificate who it is.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>

#include <cstdlib>

#include "devices/block/nbd/nbd_disk.h"
#include "tests/unit/devices/nbd_fixture.h"

namespace minivmm::test {
namespace {

class NbdTls : public NbdTest {
 protected:
  void SetUp() override {
    if (!NbdkitServer::installed()) GTEST_SKIP() << "nbdkit is not installed: tools/deps build";
    make_authority("ours");
    make_authority("others");
    // For this name only, by our authority.
    shell(
        "openssl req -x509 -days 2 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE "
        "-CA ours/ca-cert.pem -CAkey ours/ca-key.pem -keyout ours/server-key.pem -out ours/server-cert.pem");
    UniqueFd listening(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* const plain = reinterpret_cast<sockaddr*>(&address);
    ASSERT_EQ(::bind(listening.get(), plain, size), 0);
    ASSERT_EQ(::listen(listening.get(), 16), 0);
    ASSERT_EQ(::getsockname(listening.get(), plain, &size), 0);
    port_ = ntohs(address.sin_port);
    server_ = std::make_unique<NbdkitServer>(
        std::vector<std::string>{"--tls=require", "--tls-certificates=" + path("ours"), "memory", "1M"},
        std::move(listening));
  }

  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  void shell(const std::string& command) const {
    const std::string all = fmt::format("cd {} && {} 2>log", folder_.path().string(), command);
    ASSERT_EQ(std::system(all.c_str()), 0) << command;  // NOLINT(cert-env33-c,concurrency-mt-unsafe)
  }
  void make_authority(const std::string& name) const {
    shell(
        fmt::format("mkdir {0} && openssl req -x509 -days 2 -newkey ec -pkeyopt ec_paramgen_curve:P-256 "
                    "-nodes -subj /CN={0} -keyout {0}/ca-key.pem -out {0}/ca-cert.pem",
                    name));
  }
  std::string uri(const std::string& scheme, const std::string& host, const std::string& authority) const {
    return fmt::format("{}://{}:{}/{}", scheme, host, port_,
                       authority.empty() ? "" : "?tls-certificates=" + path(authority));
  }
  std::string refusal(const std::string& uri) const {
    return error_of([&] { NbdDisk::connect(uri, {}); });
  }

  TempFolder folder_;
  uint16_t port_ = 0;
  std::unique_ptr<NbdkitServer> server_;
};

TEST_F(NbdTls, ADiskOfAServerThatIsTrusted) {
  const auto disk = NbdDisk::connect(uri("nbds", "localhost", "ours"), {});
  EXPECT_EQ(disk->capacity(), 1U << 20);
  std::string bytes(300'000, 'x');
  ASSERT_TRUE(write(*disk, 512, bytes.substr(0, 299'520)));
  EXPECT_EQ(read(*disk, 512, 299'520).value(), bytes.substr(0, 299'520));
  EXPECT_TRUE(flush(*disk));
  EXPECT_TRUE(engine_->run(disk->close(*engine_)));
}

TEST_F(NbdTls, AServerOfAnotherAuthorityIsRefused) {
  expect_one_line(refusal(uri("nbds", "localhost", "others")), "localhost");
}

TEST_F(NbdTls, AServerOfAnotherNameIsRefused) {
  expect_one_line(refusal(uri("nbds", "127.0.0.1", "ours")), "127.0.0.1");
}

TEST_F(NbdTls, WithoutTlsAServerThatRequiresItIsRefused) {
  expect_one_line(refusal(uri("nbd", "localhost", "")), "nbd://localhost");
}

}  // namespace
}  // namespace minivmm::test
