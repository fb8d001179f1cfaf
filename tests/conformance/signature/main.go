// SPDX-License-Identifier: GPL-3.0-or-later

// Command signature signs an image or verifies its signature, with a certificate in a file: `signature sign|verify
// CERTIFICATE HOST:PORT/REPOSITORY@DIGEST`. It connects only to the registry, with the credential in SIGNATURE_USERNAME
// and SIGNATURE_PASSWORD. `sign` creates the certificate.
package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/notaryproject/notation-core-go/testhelper"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/registry"
	"github.com/notaryproject/notation-go/signer"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("usage: signature sign|verify CERTIFICATE HOST:PORT/REPOSITORY@DIGEST")
	}
	verb, file, reference := args[0], args[1], args[2]
	target, err := remote.NewRepository(reference)
	if err != nil {
		return err
	}
	target.PlainHTTP = true
	user := auth.Credential{Username: os.Getenv("SIGNATURE_USERNAME"), Password: os.Getenv("SIGNATURE_PASSWORD")}
	target.Client = &auth.Client{Credential: auth.StaticCredential(target.Reference.Registry, user)}
	switch verb {
	case "sign":
		return sign(ctx, registry.NewRepository(target), file, reference)
	case "verify":
		return verify(ctx, registry.NewRepository(target), file, reference)
	}
	return fmt.Errorf("the command must be sign or verify (got %q)", verb)
}

func sign(ctx context.Context, repository registry.Repository, file, reference string) error {
	pair := testhelper.GetRSASelfSignedSigningCertTuple("pullthrough.registry_cache")
	s, err := signer.NewGenericSigner(pair.PrivateKey, []*x509.Certificate{pair.Cert})
	if err != nil {
		return err
	}
	if _, err := notation.Sign(ctx, s, repository, notation.SignOptions{
		SignerSignOptions: notation.SignerSignOptions{SignatureMediaType: jws.MediaTypeEnvelope},
		ArtifactReference: reference,
	}); err != nil {
		return err
	}
	return os.WriteFile(file, pair.Cert.Raw, 0o600)
}

// trusted is a trust store with one certificate.
type trusted struct{ certificate *x509.Certificate }

// GetCertificates returns the certificate.
func (t trusted) GetCertificates(context.Context, truststore.Type, string) ([]*x509.Certificate, error) {
	return []*x509.Certificate{t.certificate}, nil
}

func verify(ctx context.Context, repository registry.Repository, file, reference string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		return err
	}
	policy := &trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{{
		Name:              "all",
		RegistryScopes:    []string{"*"},
		TrustStores:       []string{"ca:one"},
		TrustedIdentities: []string{"*"},
		SignatureVerification: trustpolicy.SignatureVerification{
			VerificationLevel: trustpolicy.LevelStrict.Name,
			// The certificate has no revocation endpoint.
			Override: map[trustpolicy.ValidationType]trustpolicy.ValidationAction{trustpolicy.TypeRevocation: trustpolicy.ActionSkip},
		},
	}}}
	v, err := verifier.New(policy, trusted{certificate}, nil)
	if err != nil {
		return err
	}
	_, _, err = notation.Verify(ctx, v, repository, notation.VerifyOptions{ArtifactReference: reference, MaxSignatureAttempts: 5})
	return err
}
