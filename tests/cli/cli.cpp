#include "tests/cli/cli.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

namespace minivmm::test {

namespace {

std::string slurp(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  std::string bytes(file ? static_cast<size_t>(file.tellg()) : 0, '\0');
  file.seekg(0);
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

void redirect(const std::string& path, int flags, int to) {
  const int fd = ::open(path.c_str(), flags, 0600);
  if (fd < 0 || ::dup2(fd, to) < 0) ::_exit(126);
}

}  // namespace

Outcome Cli::run(const std::vector<std::string>& words) const {
  const std::string out = path(".stdout");
  const std::string err = path(".stderr");
  const pid_t child = ::fork();
  if (child == 0) {
    redirect("/dev/null", O_RDONLY, STDIN_FILENO);
    redirect(out, O_WRONLY | O_CREAT | O_TRUNC, STDOUT_FILENO);
    redirect(err, O_WRONLY | O_CREAT | O_TRUNC, STDERR_FILENO);
    if (::chdir(folder_.path().c_str()) != 0) ::_exit(126);
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), slurp(out), slurp(err)};
}

Outcome Cli::minivmm(std::vector<std::string> words) const {
  words.insert(words.begin(), MINIVMM_CLI);
  return run(words);
}

std::string Cli::qemu_img(std::vector<std::string> words) const {
  words.insert(words.begin(), "qemu-img");
  const Outcome outcome = run(words);
  EXPECT_NE(outcome.status, 127) << "qemu-img is not installed: tools/deps build";
  EXPECT_EQ(outcome.status, 0) << words[1] << ": " << outcome.err << outcome.out;
  return outcome.out;
}

void Cli::qemu_io(const std::string& image, const std::string& format,
                  const std::vector<std::string>& commands) const {
  std::vector<std::string> words{"qemu-io", "-f", format};
  for (const std::string& command : commands) {
    words.emplace_back("-c");
    words.push_back(command);
  }
  words.push_back(image);
  const Outcome outcome = run(words);
  EXPECT_EQ(outcome.status, 0) << outcome.err << outcome.out;
}

std::string Cli::read_file(const std::string& name) const {
  return slurp(path(name));
}

void Cli::dump(const std::string& image, const std::string& raw) const {
  qemu_img({"convert", "-O", "raw", image, raw});
}

void Cli::expect_same_disk(const std::string& image, const std::string& raw) const {
  dump(image, "actual.raw");
  EXPECT_TRUE(read_file("actual.raw") == read_file(raw)) << image << " shows something else than " << raw;
}

void Cli::expect_clean(const std::string& image) const {
  const Outcome outcome = run({"qemu-img", "check", image});
  EXPECT_EQ(outcome.status, 0) << image << ": " << outcome.out << outcome.err;
}

}  // namespace minivmm::test
