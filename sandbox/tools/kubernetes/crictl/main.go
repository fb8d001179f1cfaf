// SPDX-License-Identifier: GPL-3.0-or-later

// Command crictl has the two commands of cri-tools' crictl that the sandbox needs: `inspecti IMAGE`, which kind runs, and
// `pull IMAGE` with a credential in CRICTL_CREDS. It calls containerd through the kubelet's interface, the CRI.
// cri-tools itself would raise the versions of the libraries that Kubernetes is built with.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "crictl:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("usage: crictl inspecti|pull IMAGE")
	}
	endpoint := cmp.Or(os.Getenv("CONTAINER_RUNTIME_ENDPOINT"), "unix:///run/containerd/containerd.sock")
	connection, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	service, image := runtime.NewImageServiceClient(connection), &runtime.ImageSpec{Image: args[1]}
	switch args[0] {
	case "inspecti":
		return inspect(ctx, service, image)
	case "pull":
		return pull(ctx, service, image)
	}
	return fmt.Errorf("%q is not known here, only inspecti and pull", args[0])
}

// inspect prints an image's id and tags.
func inspect(ctx context.Context, service runtime.ImageServiceClient, image *runtime.ImageSpec) error {
	answer, err := service.ImageStatus(ctx, &runtime.ImageStatusRequest{Image: image})
	if err != nil {
		return err
	}
	if answer.Image == nil {
		return fmt.Errorf("no such image %q present", image.Image)
	}
	status := map[string]any{"id": answer.Image.Id, "repoTags": answer.Image.RepoTags}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"status": status})
}

// pull pulls an image as the kubelet does for a pod whose pull secret has this credential, or that has none.
func pull(ctx context.Context, service runtime.ImageServiceClient, image *runtime.ImageSpec) error {
	request := &runtime.PullImageRequest{Image: image}
	if credential := os.Getenv("CRICTL_CREDS"); credential != "" {
		user, password, _ := strings.Cut(credential, ":")
		request.Auth = &runtime.AuthConfig{Username: user, Password: password}
	}
	answer, err := service.PullImage(ctx, request)
	if err != nil {
		return err
	}
	fmt.Println("Image is up to date for", answer.ImageRef)
	return nil
}
