// `minivmm doctor`, of the links between guest and host.
#include <unistd.h>

#include <regex>
#include <string>
#include <vector>

#include "tests/cli/cli.h"

namespace minivmm::test {
namespace {

class Doctor : public Cli {
 protected:
  // Whether there is a finding of that verdict on the subject, and the line of what mends it has `mend`.
  static testing::AssertionResult finds(const Outcome& outcome, const std::string& verdict,
                                        const std::string& subject, const std::string& mend = "") {
    const std::string mending = mend.empty() ? "" : ".*\n +mend: .*" + mend;
    const std::regex wanted("(^|\n)" + verdict + " +" + subject + " +[^ ]" + mending);
    if (std::regex_search(outcome.out, wanted)) return testing::AssertionSuccess();
    return testing::AssertionFailure() << "no '" << verdict << "' for " << subject << " in:\n"
                                       << outcome.out << outcome.err;
  }
};

TEST_F(Doctor, TellsOfEachLinkInOneLineAndOfWhatMendsIt) {
  const Outcome text = minivmm({"doctor"});
  const Outcome json = minivmm({"doctor", "--json"});
  for (const std::string subject : {"user networking", "ping", "passt", "CAP_NET_ADMIN", "tun", "vhost-net",
                                    "virtiofsd", "user namespaces", "libarchive"}) {
    EXPECT_TRUE(finds(text, "ok", subject) || finds(text, "limited", subject, "[a-z]")) << subject;
    EXPECT_NE(json.out.find('"' + subject + '"'), std::string::npos) << subject;
  }
}

TEST_F(Doctor, AProgramThatIsNotInstalledIsToldWithItsPackage) {
  EXPECT_TRUE(finds(run({"/usr/bin/env", "PATH=/no/such", MINIVMM_CLI, "doctor"}), "limited", "passt",
                    "install passt"));
}

TEST_F(Doctor, RightsThatAreNotThereAreToldWithWhatTheyAreFor) {
  // In a network of its own, where nobody may ping yet, and without any capability.
  std::vector<std::string> words{"unshare", "--net"};
  if (::geteuid() != 0) words.insert(words.end(), {"--user", "--map-root-user"});
  words.insert(words.end(), {"setpriv", "--bounding-set=-all", "--inh-caps=-all", MINIVMM_CLI, "doctor"});
  const Outcome outcome = run(words);
  if (outcome.err.starts_with("unshare: ")) GTEST_SKIP() << "this host gives no namespaces: " << outcome.err;
  EXPECT_TRUE(finds(outcome, "limited", "CAP_NET_ADMIN", "ip tuntap add"));
  EXPECT_TRUE(finds(outcome, "limited", "ping", "ping_group_range"));
}

TEST_F(Doctor, RootNeedsNoUserNamespaceAndOthersAreToldWhetherTheyCanMakeOne) {
  const Outcome outcome = minivmm({"doctor"});
  if (::geteuid() == 0) {
    EXPECT_TRUE(finds(outcome, "ok", "user namespaces"));
    return;
  }
  const bool can = run({"unshare", "--user", "--mount", "true"}).status == 0;
  EXPECT_TRUE(finds(outcome, can ? "ok" : "limited", "user namespaces"));
}

}  // namespace
}  // namespace minivmm::test
