#include "devices/seed/nocloud.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "devices/seed/ssh_keys.h"
#include "vmm/core/error.h"
#include "vmm/core/read_file.h"
#include "vmm/core/spec_string.h"

namespace minivmm {

namespace {

constexpr size_t kLongestLabel = 63;  // RFC 1123, 2.1
constexpr size_t kLongestHostName = 253;

bool is_alphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool is_host_name(std::string_view name) {
  size_t label = 0;
  char last = '.';
  for (const char c : name) {
    if (c == '.') {
      if (last == '.' || last == '-') return false;
      label = 0;
    } else if ((!is_alphanumeric(c) && (c != '-' || last == '.')) || ++label > kLongestLabel) {
      return false;
    }
    last = c;
  }
  return is_alphanumeric(last) && name.size() <= kLongestHostName;
}

// A double-quoted scalar (YAML 1.2, 7.3.1). Bytes above ASCII may be of any encoding and are told by number.
std::string in_quotes(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < ' ' || byte > '~') {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string read_text(const std::string& path, std::string_view role) {
  const auto bytes = read_file(path, role, kMostNoCloudBytes, "goes onto the cloud-init disk");
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// What cloud-init tells kinds of user-data by (its documentation, "User data formats"); gzip of any of them.
bool is_known_user_data(std::string_view text) {
  for (const std::string_view start : {"#cloud-config", "#!", "#include", "#cloud-boothook", "#part-handler",
                                       "#upstart-job", "## template:", "\x1f\x8b"}) {
    if (text.starts_with(start)) return true;
  }
  // MIME: header fields first, this one among them.
  std::string head(text.substr(0, text.find("\n\n")));
  std::ranges::transform(head, head.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; });
  return head.starts_with("content-type:") || head.starts_with("mime-version:") ||
         head.find("\ncontent-type:") != std::string::npos;
}

std::string made_up_meta_data(const CloudInitConfig& config, const NoCloudDefaults& defaults) {
  std::string text =
      fmt::format("instance-id: {}\nlocal-hostname: {}\n",
                  in_quotes(config.instance_id.empty() ? defaults.instance_id : config.instance_id),
                  in_quotes(config.hostname.empty() ? defaults.hostname : config.hostname));
  if (config.ssh_keys.empty()) return text;
  text +=
      "public-keys:\n";  // cloud-init gives these to the image's default user, whatever the user-data says
  for (const std::string& file : config.ssh_keys) {
    for (const std::string& key : read_ssh_keys(file)) text += fmt::format("  - {}\n", in_quotes(key));
  }
  return text;
}

}  // namespace

void CloudInitConfig::parse(std::string_view text) {
  const SpecString spec("--cloud-init", text,
                        {"meta-data", "network-config", "vendor-data", "instance-id", "hostname"});
  user_data = spec.head();
  if (user_data.empty()) {
    throw ConfigError(fmt::format("--cloud-init {}: name the file of user-data first", text));
  }
  for (const auto& [key, to] :
       {std::pair("meta-data", &meta_data), std::pair("network-config", &network_config),
        std::pair("vendor-data", &vendor_data), std::pair("instance-id", &instance_id),
        std::pair("hostname", &hostname)}) {
    const auto value = spec.get(key);
    if (!value) continue;
    if (value->empty()) throw ConfigError(fmt::format("--cloud-init {}: '{}' has no value", text, key));
    *to = *value;
  }
  check();
}

void CloudInitConfig::check() const {
  if (!hostname.empty() && !is_host_name(hostname)) {
    throw ConfigError(fmt::format("--cloud-init hostname={}: this is no host name (RFC 1123)", hostname));
  }
  if (meta_data.empty()) return;
  if (!instance_id.empty() || !hostname.empty()) {
    throw ConfigError(
        "--cloud-init: instance-id and hostname are for the meta-data that is made up; write them into the "
        "file of meta-data=");
  }
  if (!ssh_keys.empty()) {
    throw ConfigError(
        "--ssh-key: keys go into the meta-data, and --cloud-init meta-data= brings its own; write them "
        "there, "
        "under public-keys");
  }
}

NoCloud read_nocloud(const CloudInitConfig& config, const NoCloudDefaults& defaults) {
  config.check();
  NoCloud out;
  // Without a file, one that asks for nothing: cloud-init wants one to be there.
  std::string user_data = "#cloud-config\n{}\n";
  if (!config.user_data.empty()) {
    user_data = read_text(config.user_data, "user-data");
    if (!user_data.empty() && !is_known_user_data(user_data)) {
      out.warnings.push_back(
          fmt::format("--cloud-init {}: cloud-init will ignore this user-data: its first line is none of "
                      "#cloud-config, #!, Content-Type: and the like",
                      config.user_data));
    }
  }
  out.files.push_back({"user-data", std::move(user_data)});
  out.files.push_back({"meta-data", config.meta_data.empty() ? made_up_meta_data(config, defaults)
                                                             : read_text(config.meta_data, "meta-data")});
  if (!config.network_config.empty()) {
    out.files.push_back({"network-config", read_text(config.network_config, "network-config")});
  }
  if (!config.vendor_data.empty()) {
    out.files.push_back({"vendor-data", read_text(config.vendor_data, "vendor-data")});
  }
  return out;
}

std::string host_name_from(std::string_view name) {
  std::string out;
  for (const char c : name) {
    if (is_alphanumeric(c)) {
      out += c;
    } else if (!out.empty() && out.back() != '-') {
      out += '-';
    }
    if (out.size() == kLongestLabel) break;
  }
  while (!out.empty() && out.back() == '-') out.pop_back();
  return out.empty() ? "minivmm" : out;
}

}  // namespace minivmm
