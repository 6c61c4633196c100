// The guest's end of vsock connections, for tests/e2e/cases/links.py: built statically into initrd-links.
//   vsock send CID PORT   sends standard input, then prints what comes back
//   vsock echo PORT       accepts one connection and sends back what comes, until its end
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[65536];

static void copy(int from, int to) {
  ssize_t got;
  while ((got = read(from, buffer, sizeof buffer)) > 0) {
    for (ssize_t done = 0; done < got;) {
      ssize_t n = write(to, buffer + done, (size_t)(got - done));
      if (n <= 0) { perror("vsock: write"); exit(1); }
      done += n;
    }
  }
  if (got < 0) { perror("vsock: read"); exit(1); }
}

int main(int argc, char **argv) {
  struct sockaddr_vm address = {.svm_family = AF_VSOCK};
  int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  if (fd < 0) { perror("vsock: socket"); return 1; }
  if (argc == 4 && strcmp(argv[1], "send") == 0) {
    address.svm_cid = (unsigned)strtoul(argv[2], NULL, 10);
    address.svm_port = (unsigned)strtoul(argv[3], NULL, 10);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) { perror("vsock: connect"); return 1; }
    copy(0, fd);
    shutdown(fd, SHUT_WR);
    copy(fd, 1);
    return 0;
  }
  if (argc == 3 && strcmp(argv[1], "echo") == 0) {
    address.svm_cid = VMADDR_CID_ANY;
    address.svm_port = (unsigned)strtoul(argv[2], NULL, 10);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 1) != 0) {
      perror("vsock: listen");
      return 1;
    }
    puts("VSOCK-LISTENS");
    fflush(stdout);
    int peer = accept(fd, NULL, NULL);
    if (peer < 0) { perror("vsock: accept"); return 1; }
    copy(peer, peer);
    return 0;
  }
  fprintf(stderr, "usage: vsock send CID PORT | vsock echo PORT\n");
  return 2;
}
