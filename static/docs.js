// Starts the API documentation. A file of its own, because the content security policy forbids inline scripts.
"use strict";

window.SwaggerUIBundle({
  url: "/openapi.json",
  domNode: document.getElementById("swagger-ui"),
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  filter: true,
  tryItOutEnabled: false,
  // The default is an outside host that is sent the address of the description.
  validatorUrl: null,
  // A token left in the browser's storage would outlive the person at a shared computer.
  persistAuthorization: false,
});
