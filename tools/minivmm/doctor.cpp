// `minivmm doctor`: what of this host will and won't work, and how to mend it.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/userfaultfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "doctor.h"
#include "json.h"
#include "verbs.h"
#include "vmm/core/error.h"
#include "vmm/core/fd.h"
#include "vmm/kvm/kvm.h"

namespace minivmm {

namespace {

using Verdict = Finding::Verdict;

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

Finding architecture() {
#if defined(__x86_64__)
  return {"architecture", Verdict::good, "x86_64", "", true};
#else
  return {"architecture", Verdict::missing, "not x86_64", "this version of minivmm runs x86_64 guests only",
          true};
#endif
}

void look_at_kvm(std::vector<Finding>& findings) {
  std::optional<Kvm> kvm;
  try {
    kvm.emplace();
  } catch (const HostError& error) {
    findings.push_back(limited_finding("kvm", error.what()));
    findings.back().verdict = Verdict::missing;
    findings.back().needed_to_run = true;
    return;
  }
  findings.push_back(
      {"kvm", Verdict::good, fmt::format("/dev/kvm opens, up to {} vCPUs", kvm->max_vcpus()), "", true});
  const KvmKind kind = detect_kvm_kind();
  if (kind == KvmKind::software) {
    findings.push_back(
        {"kvm kind", Verdict::limited,
         fmt::format("{}: small payloads run; an unmodified Linux kernel stops at an instruction that "
                     "the interpreter lacks",
                     to_string(kind)),
         "use a host whose CPU has VMX or SVM, or switch nested virtualization on if this is a guest "
         "itself",
         false});
  } else {
    findings.push_back({"kvm kind", Verdict::good, std::string(to_string(kind)), "", false});
  }
  std::string lacking;
  for (const KvmCapability& capability : kvm_capabilities()) {
    if (kvm->check(capability.number) <= 0) {
      lacking += fmt::format("{}{} ({})", lacking.empty() ? "" : ", ", capability.name, capability.why);
    }
  }
  findings.push_back(
      lacking.empty()
          ? Finding{"kvm capabilities", Verdict::good, "all that minivmm can use", "", false}
          : Finding{"kvm capabilities", Verdict::limited, "lacks " + lacking, "use a newer kernel", false});
}

Finding device_node(std::string_view subject, const char* path, const char* use, const char* module) {
  const UniqueFd fd(::open(path, O_RDWR | O_CLOEXEC));
  if (fd) return {subject, Verdict::good, fmt::format("{} opens: {}", path, use), "", false};
  const int error = errno;
  const std::string detail = fmt::format("{}: {} (needed for {})", path, std::strerror(error), use);
  if (error == ENOENT)
    return {subject, Verdict::limited, detail, fmt::format("sudo modprobe {}", module), false};
  return {subject, Verdict::limited, detail, fmt::format("give yourself access to {}, or run as root", path),
          false};
}

Finding userfaultfd_access() {
  const UniqueFd full(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC)));
  if (full) return {"userfaultfd", Verdict::good, "full: lazy restore and post-copy can work", "", false};
  const int error = errno;
  const UniqueFd node(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (node)
    return {"userfaultfd", Verdict::good, "through /dev/userfaultfd: lazy restore and post-copy can work", "",
            false};
  if (error == ENOSYS)
    return {"userfaultfd", Verdict::limited, "not in this kernel", "use a kernel with CONFIG_USERFAULTFD",
            false};
  return {"userfaultfd", Verdict::limited,
          fmt::format("user mode only ({}): guest memory cannot be served lazily", std::strerror(error)),
          "sudo sysctl vm.unprivileged_userfaultfd=1, or access to /dev/userfaultfd", false};
}

Finding huge_pages() {
  const std::string reserved = first_line("/proc/sys/vm/nr_hugepages");
  const std::string transparent = first_line("/sys/kernel/mm/transparent_hugepage/enabled");
  const bool any = !reserved.empty() && reserved != "0";
  const std::string detail =
      fmt::format("{} pages of 2 MiB reserved; transparent: {}", reserved.empty() ? "no" : reserved,
                  transparent.empty() ? "not in this kernel" : transparent);
  if (any) return {"hugepages", Verdict::good, detail, "", false};
  return {"hugepages", Verdict::limited, detail, "for --memory …,hugepages=2M: sudo sysctl vm.nr_hugepages=N",
          false};
}

Finding io_uring() {
  std::array<uint32_t, 30> parameters{};  // struct io_uring_params is 120 bytes
  const UniqueFd ring(static_cast<int>(::syscall(SYS_io_uring_setup, 1, parameters.data())));
  if (ring) return {"io_uring", Verdict::good, "works", "", false};
  const int error = errno;
  return {"io_uring", Verdict::limited, fmt::format("{}: disks use threads instead", std::strerror(error)),
          error == EPERM ? "sudo sysctl kernel.io_uring_disabled=0" : "use a kernel with CONFIG_IO_URING",
          false};
}

const char* word(Verdict verdict) {
  switch (verdict) {
    case Verdict::good: return "ok";
    case Verdict::limited: return "limited";
    case Verdict::missing: return "missing";
  }
  return "";
}

int examine(bool as_json) {
  std::vector<Finding> findings;
  findings.push_back(architecture());
  look_at_kvm(findings);
  look_at_links(findings);
  findings.push_back(device_node("tun", "/dev/net/tun", "tap networking", "tun"));
  findings.push_back(device_node("vhost-net", "/dev/vhost-net", "in-kernel networking", "vhost_net"));
  findings.push_back(device_node("vhost-vsock", "/dev/vhost-vsock", "in-kernel vsock", "vhost_vsock"));
  findings.push_back(userfaultfd_access());
  findings.push_back(huge_pages());
  findings.push_back(io_uring());

  bool can_run = true;
  bool limited_kvm = false;
  for (const Finding& f : findings) {
    if (f.needed_to_run && f.verdict == Verdict::missing) can_run = false;
    if (f.subject == "kvm kind" && f.verdict != Verdict::good) limited_kvm = true;
  }
  const char* conclusion = !can_run      ? "virtual machines cannot run here"
                           : limited_kvm ? "payloads run here, stock Linux kernels do not"
                                         : "virtual machines run here";
  if (as_json) {
    json::array list;
    for (const Finding& f : findings) {
      list.push_back(json::object{
          {"subject", f.subject}, {"verdict", word(f.verdict)}, {"detail", f.detail}, {"mend", f.mend}});
    }
    print_json(json::object{{"can_run", can_run},
                            {"can_boot_linux", can_run && !limited_kvm},
                            {"conclusion", conclusion},
                            {"findings", std::move(list)}});
  } else {
    for (const Finding& f : findings) {
      fmt::print("{:<8} {:<17} {}\n", word(f.verdict), f.subject, f.detail);
      if (!f.mend.empty()) fmt::print("{:<8} {:<17} mend: {}\n", "", "", f.mend);
    }
    fmt::print("\n{}\n", conclusion);
  }
  return can_run ? 0 : 1;
}

}  // namespace

Finding limited_finding(std::string_view subject, std::string_view error) {
  const size_t cut = error.find("; ");
  return {subject, Finding::Verdict::limited, std::string(error.substr(0, cut)),
          cut == std::string_view::npos ? "" : std::string(error.substr(cut + 2)), false};
}

void add_doctor(CLI::App& app, Action& action) {
  auto* verb = app.add_subcommand("doctor", "Check this host: what will and won't work, and how to mend it");
  auto as_json = std::make_shared<bool>(false);
  verb->add_flag("--json", *as_json, "Print the findings as JSON");
  verb->callback([&action, as_json] { action = [as_json] { return examine(*as_json); }; });
}

}  // namespace minivmm
